"""Prompt lengths from bytes: what is assumed, learned and not believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.balancing.estimate import TokenEstimate

reports = st.lists(st.tuples(st.integers(0, 10**7), st.integers(-5, 10**6)), max_size=50)


def test_four_bytes_are_a_token_until_more_is_known() -> None:
    """The usual ratio of English text."""
    assert TokenEstimate().tokens("m", 8192) == 2048


def test_ratio_follows_reports() -> None:
    """Text of two bytes a token: after a hundred reports the estimate is within a few percent."""
    estimate = TokenEstimate()
    estimate.learn("m", 4000, 1000)
    for _ in range(100):
        estimate.learn("m", 2000, 1000)
    assert estimate.tokens("m", 2000) == pytest.approx(1000, rel=0.02)


def test_models_are_told_apart() -> None:
    """They do not have the same tokenizer."""
    estimate = TokenEstimate()
    estimate.learn("dense", 2000, 1000)
    estimate.learn("sparse", 6000, 1000)
    assert (estimate.tokens("dense", 6000), estimate.tokens("sparse", 6000)) == (3000, 1000)


def test_tiny_bodies_teach_little() -> None:
    """Ten tokens in a kilobyte of settings say nothing about long prompts."""
    estimate = TokenEstimate()
    estimate.learn("m", 40_000, 10_000)
    estimate.learn("m", 1000, 10)
    assert estimate.tokens("m", 40_000) == pytest.approx(10_000, rel=0.01)


@given(told=reports, body_bytes=st.integers(0, 10**8))
def test_estimate_stays_within_reason(told: list[tuple[int, int]], body_bytes: int) -> None:
    """Whatever engines report, a token has 1 to 16 bytes."""
    estimate = TokenEstimate()
    for size, tokens in told:
        estimate.learn("m", size, tokens)
    assert body_bytes // 17 <= estimate.tokens("m", body_bytes) <= body_bytes
    assert 1 <= estimate.bytes_per_token("m") * (1 + 1e-9) <= 16.1


def test_number_of_models_is_bounded() -> None:
    """Their names come from clients."""
    estimate = TokenEstimate()
    for index in range(2000):
        estimate.learn(f"m{index}", 2000, 1000)
    assert estimate.tokens("m1999", 2000) == 1000
    assert estimate.tokens("m0", 2000) == 500
