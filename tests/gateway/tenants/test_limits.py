"""Limits by tenant: each one refuses when it is reached, says for how long, and lets in again just then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.gateway.tenants.limits import NO_LIMITS, Limiter, Limits, OverLimit


def test_without_limits_everything_is_let_in() -> None:
    """Whatever is there already."""
    limiter = Limiter()
    assert [limiter.admit("", NO_LIMITS, 0.0, new_program=True) for _ in range(1000)] == [None] * 1000


def test_calls_a_minute_come_at_once_and_then_at_their_rate() -> None:
    """Sixty a minute: the next is let in after a second, not before."""
    limiter, limits = Limiter(), Limits(calls_per_minute=60)
    assert [limiter.admit("a", limits, 5.0, new_program=False) for _ in range(60)] == [None] * 60
    refusal = limiter.admit("a", limits, 5.25, new_program=False)
    assert refusal == OverLimit("calls_per_minute", 60, pytest.approx(0.75))
    assert refusal.retry_after_s == 1
    assert str(refusal) == "over the limit of 60 calls per minute of this API key's tenant"
    assert limiter.admit("a", limits, 6.0, new_program=False) is None
    assert limiter.admit("a", limits, 6.0, new_program=False) is not None


def test_tokens_are_charged_afterwards_and_paid_off() -> None:
    """A call may overdraw the account; then none comes in until that is made good."""
    limiter, limits = Limiter(), Limits(tokens_per_minute=600)
    limiter.admit("a", limits, 0.0, new_program=False)
    limiter.release("a", limits, 900, 0.0)
    refusal = limiter.admit("a", limits, 10.0, new_program=False)
    assert refusal == OverLimit("tokens_per_minute", 600, pytest.approx(20.0))
    assert refusal.retry_after_s == 20
    assert limiter.admit("a", limits, 30.0, new_program=False) is None


def test_calls_at_a_time_are_let_in_as_others_end() -> None:
    """A refused call counts for nothing."""
    limiter, limits = Limiter(), Limits(concurrent_calls=2)
    refusals = [limiter.admit("a", limits, 0.0, new_program=False) for _ in range(4)]
    assert refusals == [None, None, *[OverLimit("concurrent_calls", 2, 1.0)] * 2]
    limiter.release("a", limits, 0, 1.0)
    assert limiter.admit("a", limits, 1.0, new_program=False) is None


def test_programs_that_live_count_and_their_calls_come_in() -> None:
    """Whether they were opened by a call or without one; an end makes room."""
    limiter, limits = Limiter(), Limits(programs=2)
    assert limiter.admit("a", limits, 0.0, new_program=True) is None
    assert limiter.open_program("a", limits, 0.0) is None
    full = OverLimit("programs", 2, 1.0)
    assert limiter.admit("a", limits, 0.0, new_program=True) == limiter.open_program("a", limits, 0.0) == full
    assert limiter.admit("a", limits, 0.0, new_program=False) is None
    limiter.program_ended("a")
    assert limiter.admit("a", limits, 0.0, new_program=True) is None


def test_tenants_do_not_share_limits() -> None:
    """One at its limit leaves the others theirs."""
    limiter, limits = Limiter(), Limits(calls_per_minute=1, concurrent_calls=1)
    assert limiter.admit("a", limits, 0.0, new_program=False) is None
    assert limiter.admit("a", limits, 0.0, new_program=False) is not None
    assert limiter.admit("b", limits, 0.0, new_program=False) is None


def test_of_two_rates_the_longer_wait_is_named() -> None:
    """Who comes back then is let in."""
    limiter, limits = Limiter(), Limits(calls_per_minute=60, tokens_per_minute=60)
    for _ in range(60):
        limiter.admit("a", limits, 0.0, new_program=False)
    limiter.release("a", limits, 65, 0.0)
    assert limiter.admit("a", limits, 0.0, new_program=False) == OverLimit("tokens_per_minute", 60, pytest.approx(5.0))
    assert limiter.admit("a", limits, 5.0, new_program=False) is None


def test_a_limit_that_is_changed_holds_from_the_next_call() -> None:
    """As the file of keys is read again."""
    limiter = Limiter()
    assert limiter.admit("a", Limits(concurrent_calls=1), 0.0, new_program=False) is None
    assert limiter.admit("a", Limits(concurrent_calls=1), 0.0, new_program=False) is not None
    assert limiter.admit("a", Limits(concurrent_calls=2), 0.0, new_program=False) is None


@given(
    st.integers(1, 10**6),
    st.integers(1, 10**9),
    st.lists(st.tuples(st.floats(0.0, 100.0), st.integers(0, 10**7)), max_size=30),
)
def test_who_waits_as_long_as_told_is_let_in_and_nobody_before(
    calls: int, tokens: int, events: list[tuple[float, int]]
) -> None:
    """At any rates and after any history; whole seconds in the header are no less."""
    limiter, limits, now = Limiter(), Limits(calls, tokens), 1e6
    for gap_s, used in events:
        now += gap_s
        refusal = limiter.admit("a", limits, now, new_program=False)
        if refusal is not None:
            assert refusal.retry_after_s >= refusal.retry_s > 0
            early = limiter.admit("a", limits, now + 0.9 * refusal.retry_s, new_program=False)
            assert early is not None
            now += refusal.retry_s + 1e-6
            assert limiter.admit("a", limits, now, new_program=False) is None
        limiter.release("a", limits, used, now)


@given(st.lists(st.floats(0.0, 10.0), max_size=200))
def test_no_more_calls_come_in_than_the_rate_and_one_minute_at_once(gaps: list[float]) -> None:
    """In any stretch of time."""
    limiter, limits, now, let_in = Limiter(), Limits(calls_per_minute=12), 0.0, []
    for gap_s in gaps:
        now += gap_s
        if limiter.admit("a", limits, now, new_program=False) is None:
            let_in.append(now)
    for first in range(len(let_in)):
        for last in range(first, len(let_in)):
            assert last - first + 1 <= 12 + (let_in[last] - let_in[first]) / 5 + 1e-6
