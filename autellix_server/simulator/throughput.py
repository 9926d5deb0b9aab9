"""Throughput at equal latency: the rate of programs at which mean token latency is a multiple of the unloaded one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from autellix_server.simulator.programs import Arrival, ProgramTrace, SimProgram, poisson_arrivals
from autellix_server.simulator.results import Interval, bootstrap, mean
from autellix_server.simulator.run import Simulation, SimulationSettings

DEFAULT_SLOWDOWN = 2.0
"""Mean token latency over the unloaded one at which throughputs are compared, unless told otherwise."""

_ALONE_S = 1e6
_MOST_DOUBLINGS = 40


@dataclass(frozen=True, slots=True)
class Throughput:
    """Result of the search.

    Attributes:
        rate: programs per second at which the mean token latency is the multiple of the unloaded one.
        interval: 95 % bootstrap interval of `rate` over programs.
        unloaded_s: mean token latency when every program has the engines to itself.
        points: rates that were simulated, ascending, each with its mean token latency in seconds.
    """

    rate: float
    interval: Interval
    unloaded_s: float
    points: tuple[tuple[float, float], ...]


def throughput_at_equal_latency(
    settings: SimulationSettings,
    traces: Sequence[ProgramTrace],
    seed: int,
    *,
    slowdown: float = DEFAULT_SLOWDOWN,
    tolerance: float = 0.02,
    on_run: Callable[[float], None] = lambda rate: None,
) -> Throughput:
    """Search for the rate by bisection.

    Every rate sees the same programs in the same order, at the times of one Poisson process, stretched. So the rates
    can be compared program by program, and the interval needs no further runs: programs are drawn again, and the
    crossing is interpolated between the rates that were simulated.

    Args:
        settings: what is simulated.
        traces: programs, each of which arrives once.
        seed: of the arrivals and the bootstrap.
        slowdown: mean token latency over the unloaded one, above 1. Batching alone slows calls down: only where the
            limit lies beyond that do calls wait, and policies differ.
        tolerance: width of the last bracket, relative to the rate.
        on_run: told of every rate before it is simulated; 0 stands for the unloaded run.
    """

    def latencies_at(rate: float) -> list[float]:
        on_run(rate)
        return _latencies(settings, poisson_arrivals(traces, rate, Random(seed)))

    on_run(0.0)
    alone = [Arrival(index * _ALONE_S, trace) for index, trace in enumerate(traces)]
    unloaded = _latencies(settings, alone)
    limit_s = slowdown * mean(unloaded)
    rate = settings.engines / (mean(unloaded) * _mean_tokens(traces))
    runs: dict[float, list[float]] = {}
    low, high = 0.0, 0.0
    for _ in range(_MOST_DOUBLINGS):
        runs[rate] = latencies_at(rate)
        if mean(runs[rate]) < limit_s:
            low, rate = rate, rate * 2
        else:
            high, rate = rate, rate / 2
        if low and high:
            break
    while low and high - low > tolerance * high:
        rate = (low + high) / 2
        runs[rate] = latencies_at(rate)
        if mean(runs[rate]) < limit_s:
            low = rate
        else:
            high = rate

    def crossing(picks: Sequence[int]) -> float:
        limit_s = slowdown * mean([unloaded[pick] for pick in picks])
        return crossing_rate([(rate, mean([runs[rate][pick] for pick in picks])) for rate in sorted(runs)], limit_s)

    return Throughput(
        rate=crossing(range(len(traces))),
        interval=bootstrap(len(traces), crossing, Random(seed), rounds=200),
        unloaded_s=mean(unloaded),
        points=tuple((rate, mean(runs[rate])) for rate in sorted(runs)),
    )


def _latencies(settings: SimulationSettings, arrivals: Sequence[Arrival]) -> list[float]:
    """Return the token latency of every program, in order of arrival."""
    programs = Simulation(settings, arrivals).run()
    return [program.token_latency_s for program in sorted(programs, key=_arrived_s)]


def _arrived_s(program: SimProgram) -> float:
    return program.arrived_s


def _mean_tokens(traces: Sequence[ProgramTrace]) -> float:
    return mean([sum(call.output_tokens for call in trace.calls) for trace in traces])


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
