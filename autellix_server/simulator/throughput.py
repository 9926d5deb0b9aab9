"""Throughput at equal latency: the rate of programs at which mean token latency is a multiple of the unloaded one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf
from random import Random

from autellix_server.simulator.programs import Arrival, ProgramTrace, SimProgram, poisson_arrivals
from autellix_server.simulator.results import Interval, bootstrap, mean
from autellix_server.simulator.run import Simulation, SimulationSettings

DEFAULT_SLOWDOWN = 2.0
"""Mean token latency over the unloaded one at which throughputs are compared, unless told otherwise."""

LEAST_SPAN = 4.0
"""The search goes up to the rate at which programs arrive for this multiple of the time that one takes by itself."""

_ALONE_S = 1e6
_MOST_RUNS = 60
_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class Throughput:
    """Result of a search.

    Attributes:
        slowdown: the multiple.
        rate: arrivals per second at which the mean token latency is that multiple of the unloaded one.
        reached: it is; if not, `rate` is the highest that was tried, and more programs would tell.
        interval: 95 % bootstrap interval of `rate` over programs.
        offline_rate: programs per second when all are there from the start, the last one's tail included. Rates well
            above it can be kept up for a while only; how long depends on the number of programs.
        unloaded_s: mean token latency when every program has the engines to itself.
        points: rates that were simulated, ascending, each with its mean token latency in seconds.
    """

    slowdown: float
    rate: float
    reached: bool
    interval: Interval
    offline_rate: float
    unloaded_s: float
    points: tuple[tuple[float, float], ...]


class LatencyCurve:
    """Token latency by arrival rate, simulated where it is asked for and remembered.

    Every rate sees the same programs in the same order, at the times of one Poisson process, stretched. So the rates
    can be compared program by program, and intervals need no further runs: programs are drawn again, and the crossing
    is interpolated between the rates that were simulated.

    Args:
        settings: what is simulated.
        traces: programs, each of which arrives once.
        seed: of the arrivals and the bootstrap.
        on_run: told of every rate before it is simulated; 0 stands for the unloaded run, ``inf`` for all at once.
    """

    def __init__(
        self,
        settings: SimulationSettings,
        traces: Sequence[ProgramTrace],
        seed: int,
        on_run: Callable[[float], None] = lambda rate: None,
    ) -> None:
        self._settings = settings
        self._traces = traces
        self._seed = seed
        self._on_run = on_run
        self.runs: dict[float, list[SimProgram]] = {}
        """Programs in order of arrival, by rate."""

    def at(self, rate: float) -> list[SimProgram]:
        """Return the programs at `rate` programs per second, in order of arrival."""
        if rate not in self.runs:
            self._on_run(rate)
            self.runs[rate] = self._run(poisson_arrivals(self._traces, rate, Random(self._seed)))
        return self.runs[rate]

    @cached_property
    def unloaded_s(self) -> list[float]:
        """Token latency of every program when it has the engines to itself."""
        return _latencies(self._alone)

    @cached_property
    def _alone(self) -> list[SimProgram]:
        self._on_run(0.0)
        return self._run([Arrival(index * _ALONE_S, trace) for index, trace in enumerate(self._traces)])

    @cached_property
    def offline_rate(self) -> float:
        """Programs per second when all are there from the start."""
        self._on_run(inf)
        programs = self._run([Arrival(0.0, trace) for trace in self._traces])
        return len(programs) / max(program.ended_s for program in programs)

    def throughput(self, slowdown: float = DEFAULT_SLOWDOWN, tolerance: float = 0.02) -> Throughput:
        """Search by bisection for the rate at which the mean token latency is `slowdown` times the unloaded one.

        Args:
            slowdown: above 1. Batching alone slows calls down: only where the limit lies beyond that do calls wait, and
                policies differ.
            tolerance: width of the last bracket, relative to the rate.
        """
        limit_s = slowdown * mean(self.unloaded_s)
        alone_s = [program.completion_s for program in self._alone]
        highest = len(self._traces) / (LEAST_SPAN * mean(alone_s))
        for _ in range(_MOST_RUNS):
            low, high = self._bracket(limit_s)
            if low >= highest or high - low <= tolerance * high < inf:
                break
            if low and high < inf:
                self.at((low + high) / 2)
            elif low:
                self.at(min(low * 2, highest))
            else:
                # From one program at a time upwards: a run far beyond what the engines stand takes longest.
                self.at(high / 2 if high < inf else min(self._settings.engines / mean(alone_s), highest))
        return self._result(slowdown)

    def _bracket(self, limit_s: float) -> tuple[float, float]:
        """Return the rates known to be below and above the limit that are next to where it is first reached."""
        means = {rate: mean(_latencies(programs)) for rate, programs in self.runs.items()}
        high = min((rate for rate, mean_s in means.items() if mean_s >= limit_s), default=inf)
        return max((rate for rate in means if rate < high), default=0.0), high

    def _result(self, slowdown: float) -> Throughput:
        rates = sorted(self.runs)
        latencies = [_latencies(self.runs[rate]) for rate in rates]

        def crossing(picks: Sequence[int]) -> float:
            limit_s = slowdown * mean([self.unloaded_s[pick] for pick in picks])
            means = (mean([sample[pick] for pick in picks]) for sample in latencies)
            return crossing_rate(list(zip(rates, means, strict=True)), limit_s)

        everybody = range(len(self._traces))
        return Throughput(
            slowdown,
            rate=crossing(everybody),
            reached=max(map(mean, latencies)) >= slowdown * mean(self.unloaded_s),
            interval=bootstrap(len(self._traces), crossing, Random(self._seed), rounds=_ROUNDS),
            offline_rate=self.offline_rate,
            unloaded_s=mean(self.unloaded_s),
            points=tuple((rate, mean(sample)) for rate, sample in zip(rates, latencies, strict=True)),
        )

    def _run(self, arrivals: Sequence[Arrival]) -> list[SimProgram]:
        return sorted(Simulation(self._settings, arrivals).run(), key=_arrived_s)


def crossing_rate(points: Sequence[tuple[float, float]], limit_s: float) -> float:
    """Return the rate at which latency first reaches the limit, interpolated; the nearest rate when none crosses.

    Args:
        points: rates, ascending, each with its latency in seconds; at least one.
        limit_s: the limit.
    """
    for (low, below_s), (high, above_s) in pairwise(points):
        if below_s < limit_s <= above_s:
            return low + (high - low) * (limit_s - below_s) / (above_s - below_s)
    return points[0][0] if points[0][1] >= limit_s else points[-1][0]


def _latencies(programs: Sequence[SimProgram]) -> list[float]:
    return [program.token_latency_s for program in programs]


def _arrived_s(program: SimProgram) -> float:
    return program.arrived_s
