"""Statistics of a run, and the search for throughput at equal latency."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import MODEL, at_once, chain

from autellix_sdk.errors import UsageError
from autellix_server.scheduling.levels import Levels
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.simulator.results import Interval, Spread, bootstrap, jain_index, mean, percentile, summarize
from autellix_server.simulator.run import Simulation, SimulationSettings
from autellix_server.simulator.throughput import LatencyCurve

EVERY_STEP = PlannerSettings(steps_between_plans=1, spares=0, max_overtakes=None)


def test_percentiles_are_interpolated() -> None:
    """Between neighbours, and exact at the ends."""
    assert [percentile([1.0, 2.0, 4.0], share) for share in (0, 0.25, 0.5, 1)] == [1.0, 1.5, 2.0, 4.0]
    assert Spread.of([4.0, 1.0, 2.0]) == Spread(mean=7 / 3, p50=2.0, p95=3.8, p99=3.96)


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50))
def test_jain_index_is_between_one_share_and_one(sample: list[float]) -> None:
    """1 when all have the same, 1/n when one has all."""
    assert 1 / len(sample) - 1e-9 <= jain_index(sample) <= 1 + 1e-9
    assert jain_index([5.0] * len(sample)) == pytest.approx(1.0)


def test_jain_index_of_one_who_has_all() -> None:
    """One of four."""
    assert jain_index([0.0, 0.0, 0.0, 3.0]) == 0.25
    assert jain_index([0.0, 0.0]) == 1.0


def test_bootstrap_interval_holds_the_mean_and_repeats() -> None:
    """The same seed gives the same interval; it narrows with the square root of the sample."""
    random = Random(1)
    small, large = ([random.gauss(10, 2) for _ in range(size)] for size in (50, 5000))

    def interval(sample: list[float]) -> Interval:
        return bootstrap(len(sample), lambda picks: mean([sample[pick] for pick in picks]), Random(2), rounds=200)

    assert interval(small) == interval(small)
    assert interval(small).low < mean(small) < interval(small).high
    wide, narrow = (found.high - found.low for found in (interval(small), interval(large)))
    assert wide / narrow == pytest.approx(10, rel=0.4)


def test_summary_adds_up() -> None:
    """Two kinds, one slot: shares of time sum to one, and kinds to the whole."""
    arrivals = at_once(chain("a", 4, 4, tool_s=3.0), chain("b", 2, kind="react"))
    programs = Simulation(SimulationSettings(replace(MODEL, slots=1), "fcfs", Levels(())), arrivals).run()
    summary = summarize(programs, Random(0))
    everything = summary.everything
    assert (everything.programs, everything.calls, everything.tokens) == (2, 3, 10)
    assert sum(everything.time_share.values()) == pytest.approx(1.0)
    assert list(summary.kinds) == ["chat", "react"]
    assert summary.kinds["react"].token_latency_s.mean == programs[0].response_s / 2
    assert summary.makespan_s == max(program.ended_s for program in programs)
    assert json.loads(json.dumps(summary.to_json()))["everything"]["programs"] == 2


def test_no_programs_no_summary() -> None:
    """There is nothing to divide by."""
    with pytest.raises(UsageError, match="without programs"):
        summarize([], Random(0))


def test_throughput_is_found_where_theory_puts_it() -> None:
    """M/D/1: the response is twice the service at load 2/3, which for services of one second is 2/3 per second."""
    settings = SimulationSettings(replace(MODEL, slots=1), "fcfs", Levels(()), planner=EVERY_STEP)
    traces = [chain(f"p{index}", 1) for index in range(1500)]
    rates: list[float] = []
    found = LatencyCurve(settings, traces, 1, rates.append).throughput()
    assert found.unloaded_s == 1.0
    assert found.rate == pytest.approx(2 / 3, rel=0.1)
    assert found.interval.low < found.rate < found.interval.high
    assert found.interval.high - found.interval.low < 0.15
    assert found.offline_rate == pytest.approx(1.0)
    assert sorted(rates) == [0.0, *(rate for rate, _ in found.points), inf]
    assert LatencyCurve(settings, traces, 1).throughput() == found


def test_rates_are_simulated_once_for_all_slowdowns() -> None:
    """A wider limit starts from what is known; one that is never reached ends where all is a burst."""
    settings = SimulationSettings(replace(MODEL, slots=1), "fcfs", Levels(()), planner=EVERY_STEP)
    rates: list[float] = []
    curve = LatencyCurve(settings, [chain(f"p{index}", 1) for index in range(20)], 1, rates.append)
    low, high, never = (curve.throughput(slowdown) for slowdown in (2.0, 4.0, 1000.0))
    assert low.rate < high.rate < never.rate == pytest.approx(5.0)
    assert (low.reached, high.reached, never.reached) == (True, True, False)
    assert len(rates) == len(set(rates))
