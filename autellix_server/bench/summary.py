"""Sums up rounds: latency of programs by server and rate, what failed, where time went, what the client itself took.

Definitions are those of the simulator (`autellix_server.simulator.results`), so that its figures and these compare.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from autellix_sdk.bill import sum_time
from autellix_server.bench.plan import Pace
from autellix_server.bench.records import CallRecord, ProgramRecord, RoundRecord
from autellix_server.simulator.results import Interval, Spread, bootstrap, jain_index, mean, percentile

_ROUNDS = 500
"""Resamples of a bootstrap."""

_QUEUED = "queued: "
"""How the names of causes of waiting begin."""

LATE_SHARE = 0.02
"""A client whose mean lag is a larger share of a call's mean latency distorts what it measures."""

BUSY_SHARE = 0.8
"""A client that keeps its core busier than this is late in reading answers, too."""


@dataclass(frozen=True, slots=True)
class Group:
    """Programs of one kind, or all of them.

    Attributes:
        programs, calls, tokens: how many; tokens are those generated.
        token_latency_s: response time of a program per token it generated.
        mean_interval_s: 95 % bootstrap interval of its mean, over programs.
        completion_s: from when a program was to arrive until its end, tools included.
        first_token_s: from when a call was to start until its first token.
        longest_wait_s: the longest that one call waited: queued, or without a bill until its first token.
        fairness: Jain's index of token latency: 1 when all programs have the same, 1/n when one has it all.
    """

    programs: int
    calls: int
    tokens: int
    token_latency_s: Spread
    mean_interval_s: Interval
    completion_s: Spread
    first_token_s: Spread
    longest_wait_s: float
    fairness: float


@dataclass(frozen=True, slots=True)
class ClientLoad:
    """What the client itself took.

    Attributes:
        lag_mean_s, lag_p99_s, lag_max_s: how late calls were sent.
        lag_share: mean lag as a share of the mean latency of a call.
        cpu_share: processor time by wall time; the client has one core.
    """

    lag_mean_s: float
    lag_p99_s: float
    lag_max_s: float
    lag_share: float
    cpu_share: float

    @property
    def distorts(self) -> bool:
        """Whether latencies are the client's as well as the server's."""
        return self.lag_share > LATE_SHARE or self.cpu_share > BUSY_SHARE


@dataclass(frozen=True, slots=True)
class Result:
    """One server at one pace, over all repetitions.

    Attributes:
        arm: the server.
        pace: how programs arrived.
        rounds: repetitions; `interrupted` of them did not run to their end.
        programs: programs that ended or failed, those of warm-up and cool-down included.
        failures: how many failed, by reason.
        programs_per_s, tokens_per_s: those that ended well by time, from first arrival to last end.
        everything: programs that count; `None` when there are none.
        kinds: the same by kind.
        time_s: where the time of counted programs went, by cause, calls side by side; waiting first.
        calls, billed_calls: calls that count, and those of them that came with a time bill.
        lengths_off, lengths_unknown: answers that were not as long as asked for, and those of which that is not known.
        prompt_ratio: prompt tokens as the server counts them by those of the trace; `None` when it does not count.
        client: what the client itself took.
    """

    arm: str
    pace: Pace
    rounds: int
    interrupted: int
    programs: int
    failures: Mapping[str, int]
    programs_per_s: float
    tokens_per_s: float
    everything: Group | None
    kinds: Mapping[str, Group]
    time_s: Mapping[str, float]
    calls: int
    billed_calls: int
    lengths_off: int
    lengths_unknown: int
    prompt_ratio: float | None
    client: ClientLoad | None

    @property
    def failed(self) -> int:
        """Programs that failed."""
        return sum(self.failures.values())


def by_arm_and_pace(rounds: Iterable[RoundRecord]) -> dict[tuple[str, Pace], list[RoundRecord]]:
    """Return the repetitions of every arm and pace, in the order in which they were first run."""
    found: dict[tuple[str, Pace], list[RoundRecord]] = defaultdict(list)
    for one in rounds:
        found[one.round.arm.name, one.round.pace].append(one)
    return dict(found)


def sum_up(rounds: Sequence[RoundRecord], seed: int) -> Result:
    """Return what the repetitions of one arm at one pace showed.

    Args:
        rounds: at least one, all of the same arm and pace.
        seed: of the bootstrap.
    """
    arm, pace = rounds[0].round.arm.name, rounds[0].round.pace
    everyone = [program for one in rounds for program in one.programs]
    measured = [program for one in rounds for program in one.measured]
    calls = [call for program in measured for call in program.calls]
    kinds: dict[str, list[ProgramRecord]] = defaultdict(list)
    for program in measured:
        kinds[program.kind].append(program)
    well = [program for program in everyone if program.failure is None]
    span_s = sum(one.span_s for one in rounds)
    return Result(
        arm=arm,
        pace=pace,
        rounds=len(rounds),
        interrupted=sum(not one.complete for one in rounds),
        programs=len(everyone),
        failures=dict(Counter(program.failure for program in everyone if program.failure is not None)),
        programs_per_s=len(well) / span_s if span_s else 0.0,
        tokens_per_s=sum(program.tokens for program in well) / span_s if span_s else 0.0,
        everything=_group(measured, seed) if measured else None,
        kinds={kind: _group(kinds[kind], seed) for kind in sorted(kinds)},
        time_s=_time_by_cause(measured),
        calls=len(calls),
        billed_calls=sum(call.answer.bill is not None for call in calls),
        lengths_off=sum(call.answer.output_tokens not in (None, call.asked_tokens) for call in calls),
        lengths_unknown=sum(call.answer.output_tokens is None for call in calls),
        prompt_ratio=_prompt_ratio(calls),
        client=_client_load(rounds),
    )


def causes_of(results: Iterable[Result]) -> list[str]:
    """Return the causes that took time in any of the results, waiting first."""
    found = dict.fromkeys(cause for result in results for cause, spent_s in result.time_s.items() if spent_s)
    return sorted(found, key=lambda cause: not cause.startswith(_QUEUED))


def latency_by_number(rounds: Iterable[RoundRecord]) -> dict[int, float]:
    """Return the token latency of every program that counts, in seconds: the mean over its repetitions."""
    return mean_by_number((program.number, program.token_latency_s) for one in rounds for program in one.measured)


def mean_by_number(values: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Return the mean of the values of each number."""
    found: dict[int, list[float]] = defaultdict(list)
    for number, value in values:
        found[number].append(value)
    return {number: mean(found[number]) for number in sorted(found)}


def interval_over(size: int, statistic: Callable[[Sequence[int]], float], seed: int) -> Interval:
    """Return the 95 % bootstrap interval of a statistic over programs; see `simulator.results.bootstrap`."""
    return bootstrap(size, statistic, Random(seed), _ROUNDS)


def _group(programs: Sequence[ProgramRecord], seed: int) -> Group:
    latencies = [program.token_latency_s for program in programs]
    # Repetitions of one program are not independent: whole programs are drawn.
    means = list(mean_by_number((program.number, program.token_latency_s) for program in programs).values())
    return Group(
        programs=len(programs),
        calls=sum(len(program.calls) for program in programs),
        tokens=sum(program.tokens for program in programs),
        token_latency_s=Spread.of(latencies),
        mean_interval_s=interval_over(len(means), lambda picks: mean([means[pick] for pick in picks]), seed),
        completion_s=Spread.of([program.completion_s for program in programs]),
        first_token_s=Spread.of([call.first_token_s for program in programs for call in program.calls]),
        longest_wait_s=max(program.longest_wait_s for program in programs),
        fairness=jain_index(latencies),
    )


def _time_by_cause(programs: Sequence[ProgramRecord]) -> dict[str, float]:
    """Return seconds by cause; without bills all time on the server is one cause."""
    calls = [call for program in programs for call in program.calls]
    bills = [call.answer.bill for call in calls if call.answer.bill is not None]
    total = sum_time(bills)
    queued = {f"{_QUEUED}{cause}": us / 1e6 for cause, us in total.queued_us.items()}
    parts = {"prefill": total.prefill_us, "decode": total.decode_us, "swap": total.swap_us, "other": total.other_us}
    billed = [call for call in calls if call.answer.bill is not None]
    unbilled_s = sum(call.latency_s for call in calls if call.answer.bill is None)
    between_s = sum(call.latency_s for call in billed) - total.wall_us / 1e6
    return {
        **queued,
        **{name: us / 1e6 for name, us in parts.items()},
        "without a bill": unbilled_s,
        "network and client": max(0.0, between_s),
        "tool": sum(program.tool_s for program in programs),
    }


def _prompt_ratio(calls: Iterable[CallRecord]) -> float | None:
    known = [
        (call.answer.prompt_tokens, call.asked_prompt_tokens) for call in calls if call.answer.prompt_tokens is not None
    ]
    return sum(had for had, _ in known) / sum(asked for _, asked in known) if known else None


def _client_load(rounds: Sequence[RoundRecord]) -> ClientLoad | None:
    calls = [call for one in rounds for program in one.programs for call in program.calls]
    span_s = sum(one.span_s for one in rounds)
    if not calls or not span_s:
        return None
    lags = sorted(max(0.0, call.lag_s) for call in calls)
    latency_s = mean([call.latency_s for call in calls])
    return ClientLoad(
        lag_mean_s=mean(lags),
        lag_p99_s=percentile(lags, 0.99),
        lag_max_s=lags[-1],
        lag_share=mean(lags) / latency_s if latency_s else 0.0,
        cpu_share=sum(one.cpu_s for one in rounds) / span_s,
    )
