"""What a comparison found, for people, for programs and for the report: the same numbers everywhere."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import isinf
from typing import Any

from autellix_server.bench.compare import EqualLatency, Pair, Reach, equal_latency, pairs
from autellix_server.bench.plan import ALONE, Pace
from autellix_server.bench.records import RoundRecord
from autellix_server.bench.summary import Result, by_arm_and_pace, sum_up

SCHEMA = "autellix.bench/1"
"""Value of ``schema`` in the JSON object; another number for another shape."""

METHOD = (
    "Open loop: programs arrive by the clock, whatever the server manages, and the number of calls in flight is not "
    "limited. All times count from when a program or call was to start, not from when the client got round to it, so "
    "a stall is charged for everything that it delays (coordinated omission is avoided)."
)

_FEW_PROGRAMS = 100
_SHOWN_REASONS = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """A comparison.

    Attributes:
        settings: what was asked for, by name; no host, no folder.
        facts: what each arm says of itself.
        complaints: what each arm does not do as asked.
        rounds: what was measured.
        results: the same summed up, one for each arm and pace.
        pairs: arms beside the first one.
        equal_latency: throughput at equal latency; empty unless it was asked for.
        interrupted: whether it was interrupted.
    """

    settings: Mapping[str, Any]
    facts: Mapping[str, Mapping[str, Any]]
    complaints: Mapping[str, Sequence[str]]
    rounds: Sequence[RoundRecord]
    results: Sequence[Result]
    pairs: Sequence[Pair]
    equal_latency: Sequence[EqualLatency]
    interrupted: bool

    @property
    def arms(self) -> list[str]:
        """Names of the arms that were run, the first one first."""
        return list(dict.fromkeys(result.arm for result in self.results))

    @property
    def loaded(self) -> list[Result]:
        """Results but those of the unloaded server."""
        return [result for result in self.results if result.pace != ALONE]

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the numbers, in sentences."""
        return list(self._warnings())

    def to_json(self, with_programs: bool = False) -> dict[str, Any]:
        """Return it as JSON values; seconds and tokens throughout.

        Args:
            with_programs: with one row for each program of each round.
        """
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "interrupted": self.interrupted,
            "settings": dict(self.settings),
            "environment": environment(),
            "servers": {arm: dict(facts) for arm, facts in self.facts.items()},
            "method": METHOD,
            "warnings": self.warnings,
            "results": [_plain(result) for result in self.results],
            "pairs": [_plain(pair) for pair in self.pairs],
            "equal_latency": [_plain(one) for one in self.equal_latency],
        }
        if with_programs:
            document["programs"] = [row for one in self.rounds for row in _rows(one)]
        return document

    def _warnings(self) -> Iterator[str]:
        if self.interrupted:
            yield "Interrupted: programs under way at that time are missing, and those are the long ones."
        for arm, complaints in self.complaints.items():
            yield from (f"{arm}: {complaint}." for complaint in complaints)
        for result in self.results:
            yield from (f"{result.arm} {result.pace}: {problem}." for problem in _problems(result))


def find_outcome(
    rounds: Sequence[RoundRecord],
    settings: Mapping[str, Any],
    *,
    facts: Mapping[str, Mapping[str, Any]],
    complaints: Mapping[str, Sequence[str]],
    slowdown: float | None,
    seed: int,
    interrupted: bool,
) -> Outcome:
    """Sum up what was measured.

    Args:
        rounds: in the order in which they were run; at least one.
        settings, facts, complaints, interrupted: as in `Outcome`.
        slowdown: compare throughput at this multiple of the first arm's unloaded latency; `None` does not.
        seed: of the bootstrap.
    """
    grouped = by_arm_and_pace(rounds)
    arms, paces = (list(dict.fromkeys(found)) for found in zip(*grouped, strict=True))
    in_order = sorted(grouped, key=lambda key: (paces.index(key[1]), arms.index(key[0])))
    return Outcome(
        settings=settings,
        facts=facts,
        complaints=complaints,
        rounds=rounds,
        results=[sum_up(grouped[key], seed) for key in in_order],
        pairs=pairs(grouped, seed),
        equal_latency=[] if slowdown is None else equal_latency(grouped, slowdown, seed),
        interrupted=interrupted,
    )


def environment() -> dict[str, Any]:
    """Return what the client ran on; no host name, no folder."""
    return {
        "autellix": version("autellix"),
        "aiohttp": version("aiohttp"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
    }


def rate_words(one: EqualLatency) -> str:
    """Say a rate at equal latency, with its sign where the limit was not crossed."""
    return {Reach.CROSSED: "", Reach.BEYOND: "> ", Reach.BELOW: "< "}[one.reach] + f"{one.rate:.3g}"


def _problems(result: Result) -> Iterator[str]:
    if result.failed:
        reasons = sorted(result.failures.items(), key=lambda item: -item[1])
        named = "; ".join(f"{count} x {reason}" for reason, count in reasons[:_SHOWN_REASONS])
        yield f"{result.failed} of {result.programs} programs failed, and their times are left out: {named}"
    if result.everything is None:
        yield "no program counts"
    elif result.everything.programs < _FEW_PROGRAMS and result.pace != ALONE:
        yield f"{result.everything.programs} programs count: P99 says little more than which was the slowest"
    if result.lengths_off:
        yield f"{result.lengths_off} of {result.calls} answers were not as long as asked for"
    if result.client is not None and result.client.distorts:
        yield (
            f"the client itself was slow: calls left {1e3 * result.client.lag_mean_s:.1f} ms late in the mean "
            f"({100 * result.client.lag_share:.1f} % of their latency), and its core was "
            f"{100 * result.client.cpu_share:.0f} % busy; run it on a machine of its own, or at a lower rate"
        )


def _plain(found: Result | Pair | EqualLatency) -> dict[str, Any]:
    """Return the fields as JSON values; a pace becomes its words and its rate, which is null unless it is finite."""
    values = asdict(found)
    pace = getattr(found, "pace", None)
    if isinstance(pace, Pace):
        rate = None if pace.alone or pace.rate is None or isinf(pace.rate) else pace.rate
        values |= {"pace": str(pace), "rate": rate}
    return values


def _rows(one: RoundRecord) -> Iterator[dict[str, Any]]:
    for program in one.programs:
        yield {
            "arm": one.round.arm.name,
            "pace": str(one.round.pace),
            "repeat": one.round.repeat,
            "number": program.number,
            "kind": program.kind,
            "counted": program.number in one.counted,
            "failure": program.failure,
            "calls": len(program.calls),
            "tokens": program.tokens,
            "token_latency_s": program.token_latency_s,
            "response_s": program.response_s,
            "completion_s": program.completion_s,
            "longest_wait_s": program.longest_wait_s,
        }
