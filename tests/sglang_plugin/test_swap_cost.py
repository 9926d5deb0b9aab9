"""Loaded or computed again: whichever is sooner, by what was measured."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autellix_server.sglang_plugin.swap_cost import NEVER, LoadCost, PrefillRate, load_threshold

costs = st.builds(LoadCost, st.floats(0, 10), st.floats(0, 1))
rates = st.floats(0.1, 1e7)


@pytest.mark.parametrize(
    ("fixed_s", "token_s", "tokens_s", "threshold"),
    [
        (0.0, 0.0, 1000.0, 1),
        (0.5, 0.0, 4.0, 3),  # two tokens take as long as the load
        (0.5, 0.125, 4.0, 5),
        (0.0, 0.25, 4.0, NEVER),
        (1.0, 1.0, 4.0, NEVER),
        (1e300, 0.0, 4.0, NEVER),
    ],
)
def test_threshold_is_where_loading_gets_sooner(
    fixed_s: float, token_s: float, tokens_s: float, threshold: int
) -> None:
    """The fewest tokens whose load takes less; a link that is no faster than computing never gets there."""
    assert load_threshold(LoadCost(fixed_s, token_s), tokens_s) == threshold


def test_everything_is_loaded_until_it_is_known_what_computing_takes() -> None:
    """As HiCache cannot know, and a promise was made to those who left."""
    assert load_threshold(LoadCost(10.0, 1.0), None) == 1


@given(costs, rates)
def test_at_the_threshold_loading_is_sooner_and_below_it_is_not(cost: LoadCost, tokens_s: float) -> None:
    """Whatever was measured; but for rounding."""
    threshold = load_threshold(cost, tokens_s)
    assert 1 <= threshold <= NEVER
    assume(threshold < 1 << 24)
    assert cost.fixed_s + threshold * cost.token_s <= threshold / tokens_s * (1 + 1e-6)
    below = threshold - 1
    assert cost.fixed_s + below * cost.token_s >= below / tokens_s * (1 - 1e-6)


@given(costs, rates, st.floats(0, 10), st.floats(0, 1), st.floats(1, 100))
def test_less_is_loaded_the_more_it_takes(
    cost: LoadCost, tokens_s: float, fixed_s: float, token_s: float, faster: float
) -> None:
    """And the faster the engine computes."""
    threshold = load_threshold(cost, tokens_s)
    assert load_threshold(LoadCost(cost.fixed_s + fixed_s, cost.token_s), tokens_s) >= threshold
    assert load_threshold(LoadCost(cost.fixed_s, cost.token_s + token_s), tokens_s) >= threshold
    assert load_threshold(cost, tokens_s * faster) >= threshold


@given(rates, st.floats(0, 10), st.floats(1, 10))
def test_nothing_is_loaded_where_the_link_is_slower_than_computing(
    tokens_s: float, fixed_s: float, slower: float
) -> None:
    """However much there is."""
    assert load_threshold(LoadCost(fixed_s, slower / tokens_s), tokens_s) == NEVER


@given(rates)
def test_everything_is_loaded_where_loading_is_free(tokens_s: float) -> None:
    """From the first token on."""
    assert load_threshold(LoadCost(0.0, 0.0), tokens_s) == 1


def test_a_cost_is_told_by_two_loads() -> None:
    """What does not grow with tokens is fixed; noise makes nothing negative."""
    assert LoadCost.of_two((10, 3.0), (30, 5.0)) == LoadCost(2.0, 0.1)
    assert LoadCost.of_two((10, 3.0), (30, 2.0)) == LoadCost(3.0, 0.0)
    assert LoadCost.of_two((10, 1.0), (30, 9.0)) == LoadCost(0.0, 0.4)


def test_the_rate_is_that_of_the_latest_steps_of_some_size() -> None:
    """Small steps tell what any step takes, and old ones what an engine took that was another."""
    rate = PrefillRate()
    assert rate.tokens_s is None
    assert not rate.step(63, 1.0)
    assert not rate.step(100, 0.0)
    assert rate.tokens_s is None
    assert rate.step(100, 0.5)
    assert rate.tokens_s == 200
    for _ in range(100):
        rate.step(100, 2.0)
    assert rate.tokens_s == pytest.approx(50, rel=0.01)
