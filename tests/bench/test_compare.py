"""Servers beside each other: paired by program, and at equal latency."""

from __future__ import annotations

import pytest
from bench_world import A, B, ran, round_of

from autellix_server.bench.compare import Reach, equal_latency, pairs
from autellix_server.bench.plan import ALONE, Arm, Pace
from autellix_server.bench.records import RoundRecord
from autellix_server.bench.summary import by_arm_and_pace


def ladder(arm: Arm, *latencies_s: float, programs: int = 5) -> list[RoundRecord]:
    """Return rounds at 1, 2, ... programs/s with these latencies."""
    return [
        round_of(*(ran(number, latency_s) for number in range(programs)), arm=arm, pace=Pace(float(rate)))
        for rate, latency_s in enumerate(latencies_s, start=1)
    ]


def test_an_arm_is_compared_program_by_program() -> None:
    """Programs that only one of them finished, or that do not count, are left out."""
    base = round_of(ran(0, 1.0), ran(1, 10.0), ran(2, 99.0, failure="x"))
    arm = round_of(ran(0, 0.5), ran(1, 5.0), ran(2, 1.0), arm=B)
    (pair,) = pairs(by_arm_and_pace([base, arm]), seed=0)
    assert (pair.arm, pair.base, pair.programs, pair.faster) == ("b", "a", 2, 1.0)
    assert pair.ratio == pytest.approx(0.5)
    assert (pair.interval.low, pair.interval.high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_the_unloaded_run_is_no_pair() -> None:
    """It is the measure of others."""
    assert pairs(by_arm_and_pace([round_of(ran(0), pace=ALONE), round_of(ran(0), arm=B, pace=ALONE)]), seed=0) == []


def test_the_rate_at_equal_latency_is_interpolated() -> None:
    """Both arms at the same latency: twice that of the first arm alone."""
    alone = round_of(ran(0, 1.0), pace=ALONE)
    rounds = by_arm_and_pace([alone, *ladder(A, 1.0, 3.0, 9.0), *ladder(B, 1.0, 1.2, 2.4)])
    first, second = equal_latency(rounds, slowdown=2.0, seed=0)
    assert (first.rate, first.reach) == (pytest.approx(1.5), Reach.CROSSED)
    assert second.rate == pytest.approx(2 + 0.8 / 1.2)
    assert first.limit_s == second.limit_s == pytest.approx(0.2)
    assert first.interval.low == pytest.approx(1.5)


@pytest.mark.parametrize(("latencies_s", "reach", "rate"), [((1.0, 1.1), "beyond", 2.0), ((5.0, 6.0), "below", 1.0)])
def test_a_limit_outside_the_rates_is_not_invented(latencies_s: tuple[float, ...], reach: str, rate: float) -> None:
    """The nearest rate comes with a word that says on which side the limit lies."""
    rounds = by_arm_and_pace([round_of(ran(0, 1.0), pace=ALONE), *ladder(A, *latencies_s)])
    (found,) = equal_latency(rounds, slowdown=2.0, seed=0)
    assert (found.reach, found.rate) == (reach, rate)


def test_without_an_unloaded_run_or_a_second_rate_there_is_no_throughput() -> None:
    """Nothing to compare with, nothing to interpolate."""
    assert equal_latency(by_arm_and_pace(ladder(A, 1.0, 3.0)), 2.0, 0) == []
    assert equal_latency(by_arm_and_pace([round_of(ran(0), pace=ALONE), *ladder(A, 1.0)]), 2.0, 0) == []
