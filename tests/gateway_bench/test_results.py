"""What the turns say together."""

from __future__ import annotations

from math import inf

import pytest

from autellix_server.gateway_bench.results import Busy, Held, Latency, Pair, Results, Rung
from autellix_server.gateway_bench.tables import tables

STILL = Busy(0.5, 0.1, 0.1, 0.0)


def pair(arm: str, number: int, p50_ms: float, p99_ms: float, failures: dict[str, int] | None = None) -> Pair:
    """Return a pair that adds so much to a direct median of 1 ms and P99 of 2 ms."""
    through = Latency(100, failures or {}, (1 + p50_ms) / 1e3, (2 + p99_ms) / 1e3)
    return Pair(arm, number, "plain", Latency(100, {}, 0.001, 0.002), through, STILL)


def rung(
    arm: str,
    number: int,
    events_per_s: int,
    *,
    lost: int = 0,
    p99_s: float = 0.01,
    cpu_s: float = 1.0,
    busy: Busy = STILL,
) -> Rung:
    """Return a rung of five seconds."""
    expected = 5 * events_per_s
    return Rung(
        arm, number, events_per_s, 10, expected, expected - lost, {}, 0.001, p99_s, 0.05, arm_cpu_s=cpu_s, busy=busy
    )


def test_what_is_added_is_the_median_of_the_pairs() -> None:
    """Median and P99 each by itself."""
    results = Results(["ours"], [pair("ours", 0, 0.5, 3), pair("ours", 1, 0.7, 9), pair("ours", 2, 0.6, 4)])
    summary = results.to_json()["arms"]["ours"]
    assert summary["added_p50_s"]["plain"] == pytest.approx(0.0006)
    assert summary["added_p99_s"]["plain"] == pytest.approx(0.004)
    (table,) = tables(results)
    assert table.rows[0][2:4] == ("0.60 (0.50 to 0.70)", "4.00 (3.00 to 9.00)")
    assert table.rows[0][-1] == "1.00 and 5.00: reached"


def test_a_rung_is_carried_when_nothing_is_lost_or_late() -> None:
    """The most that is carried is found round by round."""
    results = Results(["ours"])
    results.rungs += [rung("ours", 0, 1000), rung("ours", 0, 2000), rung("ours", 0, 3000, lost=1)]
    results.rungs += [rung("ours", 1, 1000), rung("ours", 1, 2000, p99_s=0.06)]
    results.rungs += [rung("ours", 2, 1000, p99_s=inf, lost=5000)]
    assert [(one.number, one.events_per_s) for one in results.most_carried("ours")] == [(0, 2000), (1, 1000)]
    summary = results.to_json()["arms"]["ours"]
    assert (summary["carried_events_per_s"], summary["events_per_core_s"]) == (1500, 7500)


def test_memory_is_what_came_on_by_streams() -> None:
    """By the stream."""
    results = Results(["ours"], held=[Held("ours", 0, 100, 50_000_000, 52_000_000)])
    assert results.to_json()["arms"]["ours"]["stream_bytes"] == 20_000
    (table,) = tables(results)
    assert table.rows == [("ours", "100", "50", "20 (20 to 20)")]


def test_an_arm_that_carried_nothing_has_no_figure() -> None:
    """None is not nought."""
    results = Results(["new"], rungs=[rung("new", 0, 1000, lost=1)])
    assert results.to_json()["arms"]["new"] == {
        "added_p50_s": {},
        "added_p99_s": {},
        "carried_events_per_s": None,
        "events_per_core_s": None,
        "stream_bytes": None,
    }
    assert [table.title for table in tables(results)] == ["streams, rung by rung"]


def test_what_spoils_the_figures_is_said() -> None:
    """Others at work, failures, a busy client, a ladder too short, a single round."""
    results = Results(["new"], [pair("new", 0, 1, 1, {"it is answered with 503": 2, "it did not end in time": 1})])
    results.rungs += [rung("new", 0, 1000, busy=Busy(0.5, 0.1, 0.9, 0.3))]
    assert results.warnings == [
        (
            "anything else took up to 0.3 cores while an arm was measured: these are no figures to report; repeat it "
            "when nothing else runs"
        ),
        "new, plain calls: 3 failed, 2 of them: it is answered with 503",
        "new: the client itself used 90 % of a core: it may be what ended the ladder",
        "new carried the whole ladder: give higher --events to see where it ends",
        "one round shows no spread: give --rounds 3 or more for figures to report",
    ]
