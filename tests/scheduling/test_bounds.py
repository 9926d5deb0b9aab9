"""Bounds of levels: what may be said of them, and how they follow what calls are served."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_engine import make_call

from autellix_sdk.errors import ConfigurationError
from autellix_server.scheduling.bounds import (
    DRIFT,
    LEAST_CALLS,
    BoundSettings,
    BoundsInUse,
    Calibration,
    RunningMedian,
)
from autellix_server.scheduling.call import Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import Planner, PlannerSettings
from autellix_server.scheduling.policies import make_policy

ROOM = Capacity(slots=64, kv_tokens=1 << 20, host_tokens=0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.integers(1, 12))
def test_running_median_is_that_of_the_last_numbers(numbers: list[float], window: int) -> None:
    """The upper one of two in the middle, of no more than the window."""
    running = RunningMedian(window)
    for seen, number in enumerate(numbers, 1):
        running.add(number)
        last = sorted(numbers[max(0, seen - window) : seen])
        assert (len(running), running.value) == (len(last), last[len(last) // 2])


def test_nothing_moves_before_enough_calls_were_seen() -> None:
    """A median of few says little; calls that were never served say nothing."""
    calibration = Calibration(1.0, fixed=False)
    assert not any(calibration.left(8.0) for _ in range(LEAST_CALLS - 1))
    assert not calibration.left(0.0)
    assert (calibration.first_bound_s, calibration.median_s) == (1.0, None)
    assert calibration.left(8.0)
    assert (calibration.first_bound_s, calibration.median_s) == (8.0, 8.0)


@pytest.mark.parametrize(
    ("median_s", "moves"),
    [(0.99 / DRIFT, True), (1.01 / DRIFT, False), (0.99 * DRIFT, False), (1.01 * DRIFT, True)],
)
def test_bounds_move_when_the_median_has_drifted_far_enough(median_s: float, moves: bool) -> None:
    """Either way, by the same factor; then they are the median's until it drifts from there."""
    calibration = Calibration(1.0, fixed=False)
    moved = [calibration.left(median_s) for _ in range(2 * LEAST_CALLS)]
    assert moved.count(True) == moves
    assert calibration.first_bound_s == (median_s if moves else 1.0)


def test_what_was_fixed_stays_and_the_median_is_told() -> None:
    """So that one sees whether the number that was given is a good one."""
    calibration = Calibration(1.0, fixed=True)
    assert not any(calibration.left(50.0) for _ in range(LEAST_CALLS))
    assert (calibration.first_bound_s, calibration.median_s) == (1.0, 50.0)


def test_by_default_bounds_are_calibrated_from_eight_levels() -> None:
    """A number fixes the first bound, a list all of them."""
    assert (BoundSettings().levels, BoundSettings().calibrated) == (geometric_levels(8, 1.0), True)
    assert (BoundSettings(0.5).levels, BoundSettings(0.5).calibrated) == (geometric_levels(8, 0.5), False)
    listed = BoundSettings(bounds_s=(1.0, 5.0))
    assert (listed.levels.bounds_s, listed.calibrated) == ((1.0, 5.0), False)


@pytest.mark.parametrize(
    ("first_bound_s", "bounds_s", "complaint"),
    [
        (0.0, (), "first_bound_s must be above 0 and finite, got 0.0"),
        (inf, (), "first_bound_s must be above 0 and finite, got inf"),
        (float("nan"), (), "first_bound_s must be above 0 and finite, got nan"),
        (None, (0.0, 1.0), r"bounds_s must be above 0, increasing and finite, got \(0.0, 1.0\)"),
        (None, (2.0, 1.0), r"bounds_s must be above 0, increasing and finite, got \(2.0, 1.0\)"),
        (None, (1.0, inf), r"bounds_s must be above 0, increasing and finite, got \(1.0, inf\)"),
        (None, (1.0, float("nan")), r"bounds_s must be above 0, increasing and finite, got \(1.0, nan\)"),
        (1.0, (1.0, 2.0), "bounds_s names every bound, the first one too: leave out first_bound_s"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(
    first_bound_s: float | None, bounds_s: tuple[float, ...], complaint: str
) -> None:
    """The message names the setting and its value."""
    with pytest.raises(ConfigurationError, match=complaint):
        BoundSettings(first_bound_s, bounds_s)


def calibrated_planner(policy: str) -> Planner:
    """A planner of four levels whose bounds follow its calls, from 1, 2 and 4 s."""
    return Planner(make_policy(policy, geometric_levels(4, 1.0)), PlannerSettings(calibrated=True))


def let_calls_pass(planner: Planner, service_s: float, calls: int = LEAST_CALLS) -> None:
    """Serve calls of other programs, one after the other."""
    for number in range(calls):
        call = arrive(planner, f"other{number}", 1000 + number)
        planner.plan(ROOM, 0.0)
        planner.credit(call, service_s, 0.0)
        planner.remove(call, 0.0)


def arrive(planner: Planner, program: str, number: int, base_s: float = 0.0) -> Call:
    """A call of a program that attained `base_s` seconds."""
    call = make_call(program, number, base_s)
    planner.arrive(call, 0.0)
    return call


def test_live_calls_keep_level_and_quantum_until_they_move() -> None:
    """Calls that come later start by the new bounds, which are 8, 16 and 32 s."""
    planner = calibrated_planner("plas")
    early = arrive(planner, "early", 1, base_s=3.0)
    planner.plan(ROOM, 0.0)
    let_calls_pass(planner, 8.0)
    assert planner.bounds == BoundsInUse(8.0, (8.0, 16.0, 32.0), 8.0, calibrated=True)
    assert (early.level, early.quantum_s) == (2, 2.0)
    planner.credit(early, 2.5, 0.0)
    assert (early.level, early.quantum_s) == (3, inf)
    late = arrive(planner, "late", 2, base_s=9.0)
    assert (late.level, late.quantum_s, planner.policy.promotion_s) == (1, 8.0, 8.0)


def test_the_median_of_fixed_bounds_is_shown() -> None:
    """They stay."""
    planner = Planner(make_policy("plas", geometric_levels(4, 1.0)))
    let_calls_pass(planner, 8.0)
    assert planner.bounds == BoundsInUse(1.0, (1.0, 2.0, 4.0), 8.0, calibrated=False)


@pytest.mark.parametrize("policy", ["gittins", "auto"])
def test_policies_that_learn_keep_their_bins(policy: str) -> None:
    """What was learned in them stays in its place; what a promoted call gets follows the median."""
    planner = calibrated_planner(policy)
    bins = planner.policy.levels
    let_calls_pass(planner, 8.0)
    assert (planner.policy.levels, planner.policy.promotion_s) == (bins, 8.0)
    assert planner.bounds.first_bound_s == 8.0


def test_one_level_has_no_bound_to_move() -> None:
    """Whatever calls are served."""
    planner = Planner(make_policy("plas", geometric_levels(1)), PlannerSettings(calibrated=True))
    let_calls_pass(planner, 8.0)
    assert (planner.bounds.first_bound_s, planner.bounds.bounds_s) == (inf, ())
