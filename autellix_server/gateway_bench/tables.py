"""The tables of a gateway bench as headings and cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from autellix_server.bench.tables import Table
from autellix_server.gateway_bench.arms import DIRECT, OURS
from autellix_server.gateway_bench.load import KINDS
from autellix_server.gateway_bench.results import (
    AIM_EVENTS_PER_CORE_S,
    AIM_P50_S,
    AIM_P99_S,
    Results,
)


def tables(results: Results) -> Iterator[Table]:
    """Yield the tables that have rows."""
    found = (_added(results), _rungs(results), _carried(results), _held(results))
    yield from (table for table in found if table.rows)


def _added(results: Results) -> Table:
    rows = []
    for kind in KINDS:
        for arm in results.arms:
            pairs = results.pairs_of(arm, kind)
            if not pairs:
                continue
            p50_s, p99_s = ([getattr(pair, name) for pair in pairs] for name in ("added_p50_s", "added_p99_s"))
            reached = median(p50_s) < AIM_P50_S and median(p99_s) < AIM_P99_S
            rows.append(
                (
                    kind,
                    arm,
                    _spread(p50_s, _ms),
                    _spread(p99_s, _ms),
                    _ms(median(pair.direct.p50_s for pair in pairs)),
                    _ms(median(pair.through.p50_s for pair in pairs)),
                    _ms(median(pair.through.p99_s for pair in pairs)),
                    f"{median(pair.busy.arm for pair in pairs):.2f}",
                    str(sum(sum(pair.through.failures.values()) for pair in pairs)),
                    _aim(arm, f"{_ms(AIM_P50_S)} and {_ms(AIM_P99_S)}", reached),
                )
            )
    columns = ("calls", "arm", "added median ms", "added P99 ms", "direct ms", "median ms", "P99 ms", "cores", "failed")
    return Table("added to a call, pair by pair: median of the pairs (least to most)", (*columns, "aim ms"), rows)


def _rungs(results: Results) -> Table:
    rows = []
    for arm in (DIRECT, *results.arms):
        for events_per_s, rungs in results.rungs_of(arm).items():
            lost = sum(rung.expected - rung.delivered for rung in rungs)
            rows.append(
                (
                    arm,
                    str(events_per_s),
                    str(rungs[0].streams),
                    f"{sum(rung.carried for rung in rungs)} of {len(rungs)}",
                    str(lost),
                    _ms(median(rung.p50_s for rung in rungs)),
                    _ms(median(rung.p99_s for rung in rungs)),
                    f"{1e3 * median(1e3 * rung.arm_cpu_s / max(1, rung.delivered) for rung in rungs):.0f}",
                    *(
                        f"{median(getattr(rung.busy, who) for rung in rungs):.2f}"
                        for who in ("arm", "engine", "client")
                    ),
                )
            )
    columns = ("arm", "events/s", "streams", "carried", "lost", "delay ms", "P99 ms", "CPU ms per 1000 events")
    return Table("streams, rung by rung", (*columns, "cores: arm", "engine", "client"), rows)


def _carried(results: Results) -> Table:
    rows = []
    for arm in results.arms:
        carried = results.most_carried(arm)
        per_core = [value for rung in carried if (value := rung.events_per_core_s) is not None]
        if carried and per_core:
            aim = _aim(arm, f"{AIM_EVENTS_PER_CORE_S:.0f}", median(per_core) >= AIM_EVENTS_PER_CORE_S)
            rows.append(
                (
                    arm,
                    _spread([rung.events_per_s for rung in carried], _whole),
                    _spread(per_core, _whole),
                    _spread([rung.busy.arm for rung in carried], _two_digits),
                    aim,
                )
            )
    columns = ("arm", "events/s", "events per core and second", "cores", "aim per core")
    return Table(
        "the most that was carried without loss or lateness: median of the rounds (least to most)", columns, rows
    )


def _held(results: Results) -> Table:
    rows = []
    for arm in results.arms:
        found = [one for one in results.held if one.arm == arm]
        if found:
            rows.append(
                (
                    arm,
                    str(found[0].streams),
                    f"{median(one.before_bytes for one in found) / 1e6:.0f}",
                    _spread([one.stream_bytes / 1e3 for one in found], _whole),
                )
            )
    return Table("memory", ("arm", "streams", "RSS MB before", "RSS kB per open stream"), rows)


def _aim(arm: str, aim: str, reached: bool) -> str:
    return "" if arm != OURS else f"{aim}: {'reached' if reached else 'missed'}"


def _spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    return f"{show(median(values))} ({show(min(values))} to {show(max(values))})"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _two_digits(value: float) -> str:
    return f"{value:.2f}"
