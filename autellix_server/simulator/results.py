"""What a run showed: latency of programs, its spread, fairness, and where time went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import floor
from random import Random
from typing import Any

from autellix_sdk.errors import UsageError
from autellix_server.simulator.programs import CallTimes, Counts, SimProgram


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles of a sample."""

    mean: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, sample: Sequence[float]) -> Spread:
        """Return those of `sample`, which must not be empty."""
        ordered = sorted(sample)
        return cls(sum(ordered) / len(ordered), *(percentile(ordered, share) for share in (0.5, 0.95, 0.99)))


@dataclass(frozen=True, slots=True)
class Interval:
    """A bootstrap interval: both ends are values of the statistic."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """Programs of one kind, or all of them.

    Attributes:
        programs, calls, tokens: how many; tokens are those generated.
        token_latency_s: response time of a program per token it generated, in seconds.
        mean_interval_s: 95 % bootstrap interval of its mean.
        completion_s: from a program's arrival to its end, tools included.
        longest_wait_s: the longest that one call waited in all.
        fairness: Jain's index of token latency: 1 when all programs have the same, 1/n when one has it all.
        time_share: share of the programs' time by cause, waiting by its own causes; threads count side by side.
    """

    programs: int
    calls: int
    tokens: int
    token_latency_s: Spread
    mean_interval_s: Interval
    completion_s: Spread
    longest_wait_s: float
    fairness: float
    time_share: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers.

    Attributes:
        makespan_s: from the first arrival to the last end.
        counts: what happened to calls, summed up.
        everything: all programs.
        kinds: programs by kind.
    """

    makespan_s: float
    counts: Counts
    everything: GroupSummary
    kinds: Mapping[str, GroupSummary]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; seconds and tokens throughout."""
        return asdict(self)


def summarize(programs: Sequence[SimProgram], random: Random) -> Summary:
    """Sum up a run.

    Args:
        programs: as returned by `Simulation.run`.
        random: drives the bootstrap.

    Raises:
        UsageError: there are no programs.
    """
    if not programs:
        raise UsageError("a run without programs cannot be summed up")
    counts = Counts()
    for program in programs:
        counts.add(program.counts)
    kinds: dict[str, list[SimProgram]] = {}
    for program in programs:
        kinds.setdefault(program.kind, []).append(program)
    return Summary(
        makespan_s=max(program.ended_s for program in programs) - min(program.arrived_s for program in programs),
        counts=counts,
        everything=_summarize_group(programs, random),
        kinds={kind: _summarize_group(kinds[kind], random) for kind in sorted(kinds)},
    )


def mean(sample: Sequence[float]) -> float:
    """Return the mean of `sample`, which must not be empty."""
    return sum(sample) / len(sample)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the ascending sample lies, interpolated between neighbours."""
    at = share * (len(ordered) - 1)
    low = floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def jain_index(sample: Sequence[float]) -> float:
    """Return Jain's fairness index of a sample of values of 0 or more; 1.0 when all are 0."""
    squares = sum(value * value for value in sample)
    return sum(sample) ** 2 / (len(sample) * squares) if squares else 1.0


def bootstrap(
    size: int, statistic: Callable[[Sequence[int]], float], random: Random, rounds: int = 1000, level: float = 0.95
) -> Interval:
    """Return the bootstrap interval of a statistic (percentile method).

    Args:
        size: of the sample, 1 or more.
        statistic: maps indices into the sample, drawn with replacement, to its value.
        random: draws.
        rounds: resamples.
        level: share of resamples between both ends.
    """
    values = sorted(statistic(random.choices(range(size), k=size)) for _ in range(rounds))
    return Interval(percentile(values, (1 - level) / 2), percentile(values, (1 + level) / 2))


def _summarize_group(programs: Sequence[SimProgram], random: Random) -> GroupSummary:
    latencies = [program.token_latency_s for program in programs]
    times = CallTimes()
    for program in programs:
        times.add(program.times)
    tool_s = sum(program.tool_s for program in programs)
    total_s = times.total_s + tool_s
    parts = {name.removesuffix("_s"): seconds for name, seconds in asdict(times).items()} | {"tool": tool_s}
    return GroupSummary(
        programs=len(programs),
        calls=sum(program.calls for program in programs),
        tokens=sum(program.tokens for program in programs),
        token_latency_s=Spread.of(latencies),
        mean_interval_s=bootstrap(len(latencies), lambda picks: mean([latencies[pick] for pick in picks]), random, 200),
        completion_s=Spread.of([program.completion_s for program in programs]),
        longest_wait_s=max(program.longest_wait_s for program in programs),
        fairness=jain_index(latencies),
        time_share={name: seconds / total_s for name, seconds in parts.items()},
    )
