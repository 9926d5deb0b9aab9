"""The tables of a comparison as headings and cells, for the terminal and the report alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autellix_server.bench.compare import Reach
from autellix_server.bench.outcome import Outcome, rate_words
from autellix_server.bench.summary import Group, Result, causes_of

_LATENCY_COLUMNS = (
    "ms/token",
    "95 % interval",
    "p50",
    "p95",
    "p99",
    "completion s",
    "p99 s",
    "first token s",
    "longest wait s",
    "fairness",
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        title: what it shows.
        columns: headings.
        rows: cells, as many as there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(outcome: Outcome) -> Iterator[Table]:
    """Yield the tables that have rows, the most important first."""
    results = [result for result in outcome.results if result.everything is not None]
    rows = [(result.arm, _pace(result), *_latency(result.everything)) for result in results if result.everything]
    yield Table("programs that count: token latency, completion, waiting", ("arm", "pace", *_LATENCY_COLUMNS), rows)
    yield from (table for table in (_pairs(outcome), _equal_latency(outcome), _kinds(results)) if table.rows)
    yield _totals(outcome.results)
    yield from (table for table in (_time_share(results), _client(outcome.results)) if table.rows)


def _pairs(outcome: Outcome) -> Table:
    rows = [
        (
            f"{pair.arm} / {pair.base}",
            str(pair.pace),
            str(pair.programs),
            f"{pair.ratio:.3f}",
            f"{pair.interval.low:.3f} to {pair.interval.high:.3f}",
            f"{100 * pair.faster:.0f} %",
        )
        for pair in outcome.pairs
    ]
    columns = ("arms", "pace", "programs", "latency ratio", "95 % interval", "programs that were faster")
    return Table("the same programs on both: mean token latency, below 1 the first of the two is better", columns, rows)


def _equal_latency(outcome: Outcome) -> Table:
    rows = [
        (
            one.arm,
            rate_words(one),
            f"{one.interval.low:.3g} to {one.interval.high:.3g}" if one.reach is Reach.CROSSED else "-",
            f"{one.rate / outcome.equal_latency[0].rate:.2f}",
            f"{1e3 * one.limit_s:.1f}",
        )
        for one in outcome.equal_latency
    ]
    columns = ("arm", "programs/s", "95 % interval", f"x {outcome.arms[0] if outcome.arms else ''}", "at ms/token")
    return Table("throughput at equal latency, interpolated between the rates that were run", columns, rows)


def _kinds(results: Sequence[Result]) -> Table:
    kinds = list(dict.fromkeys(kind for result in results for kind in result.kinds))
    rows = [
        (kind, result.arm, _pace(result), *_latency(result.kinds[kind]))
        for kind in kinds
        for result in results
        if kind in result.kinds
    ]
    return Table("by kind", ("kind", "arm", "pace", *_LATENCY_COLUMNS), rows if len(kinds) > 1 else ())


def _totals(results: Sequence[Result]) -> Table:
    rows = [
        (
            result.arm,
            _pace(result),
            str(result.rounds),
            str(result.programs),
            str(result.everything.programs if result.everything else 0),
            str(result.failed),
            f"{result.programs_per_s:.3g}",
            f"{result.tokens_per_s:.1f}",
            str(result.calls),
            str(result.lengths_off),
            "-" if result.prompt_ratio is None else f"{100 * result.prompt_ratio:.0f} %",
        )
        for result in results
    ]
    columns = (
        *("arm", "pace", "rounds", "programs", "count", "failed", "programs/s", "tokens/s"),
        *("calls that count", "of other length", "prompt tokens of trace"),
    )
    return Table("throughput, warm-up and cool-down included, and what was run", columns, rows)


def _time_share(results: Sequence[Result]) -> Table:
    causes = causes_of(results)
    rows = []
    for result in results:
        total_s = sum(result.time_s.values()) or 1.0
        shares = (f"{100 * result.time_s.get(cause, 0.0) / total_s:.1f}" for cause in causes)
        rows.append((result.arm, _pace(result), *shares))
    return Table("% of programs' time, by the server's bills", ("arm", "pace", *causes), rows if causes else ())


def _client(results: Sequence[Result]) -> Table:
    rows = [
        (
            result.arm,
            _pace(result),
            *(f"{1e3 * lag_s:.1f}" for lag_s in (client.lag_mean_s, client.lag_p99_s, client.lag_max_s)),
            f"{100 * client.lag_share:.2f}",
            f"{100 * client.cpu_share:.0f}",
        )
        for result in results
        if (client := result.client) is not None
    ]
    columns = ("arm", "pace", "lag ms", "p99", "max", "lag % of call latency", "core busy %")
    return Table("what the client itself took: calls leave late, which counts as latency", columns, rows)


def _latency(group: Group) -> tuple[str, ...]:
    """Return the cells of `_LATENCY_COLUMNS`."""
    latency, interval = group.token_latency_s, group.mean_interval_s
    return (
        f"{1e3 * latency.mean:.1f}",
        f"{1e3 * interval.low:.1f} to {1e3 * interval.high:.1f}",
        *(f"{1e3 * value:.1f}" for value in (latency.p50, latency.p95, latency.p99)),
        f"{group.completion_s.mean:.1f}",
        f"{group.completion_s.p99:.1f}",
        f"{group.first_token_s.mean:.2f}",
        f"{group.longest_wait_s:.1f}",
        f"{group.fairness:.2f}",
    )


def _pace(result: Result) -> str:
    return str(result.pace)
