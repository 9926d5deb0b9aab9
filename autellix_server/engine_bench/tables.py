"""The tables of an engine bench as headings and cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from autellix_server.bench.tables import Table
from autellix_server.engine_bench.results import COSTS, Results


def tables(results: Results) -> Iterator[Table]:
    """Yield the tables that have rows."""
    yield from (
        table for table in (_speeds(results), _costs(results), _ratios(results), _floors(results)) if table.rows
    )


def _speeds(results: Results) -> Table:
    return _values("tokens/s", results, [what for what in results.measures if what not in COSTS])


def _costs(results: Results) -> Table:
    return _values("start-up, and memory of all processes", results, COSTS)


def _values(title: str, results: Results, measures: Sequence[str]) -> Table:
    rows = [(arm, *(_spread(list(results.by_round(arm, what).values())) for what in measures)) for arm in results.arms]
    return Table(f"{title}: median of the rounds (least to most)", ("arm", *measures), rows)


def _ratios(results: Results) -> Table:
    rows = [
        (
            f"{ratio.arm} / stock",
            ratio.what,
            _spread(ratio.rounds),
            str(len(ratio.rounds)),
            "" if ratio.aim is None else f"{ratio.aim:g}: {'reached' if ratio.median >= ratio.aim else 'missed'}",
        )
        for ratio in results.ratios
    ]
    return Table("beside stock, round by round", ("arms", "what", "median (least to most)", "rounds", "aim"), rows)


def _floors(results: Results) -> Table:
    rows = [
        (
            floor.arm,
            f"{floor.step_bytes / 1e6:.1f}",
            f"{1e3 * floor.floor_s:.2f}",
            f"{1e3 * floor.step_s:.2f}",
            f"{100 * floor.share:.0f} %",
        )
        for floor in results.floors
    ]
    read = results.bandwidth
    at = "" if read is None else f", {read.bytes_per_s / 1e9:.1f} GB/s read by {read.threads} threads ({read.way})"
    columns = ("arm", "MB of weights a step", "floor ms", "ms a step of one call", "share of the floor")
    return Table(f"the memory-bandwidth floor{at}", columns, rows)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{_number(median(values))} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    """Return it with three digits that count, and none cut off before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
