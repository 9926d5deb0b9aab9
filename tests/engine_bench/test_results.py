"""What turns say together: medians, ratios by round, and the share of the floor."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autellix_server.engine_bench.bandwidth import Bandwidth
from autellix_server.engine_bench.results import RSS, START, Results, Turn
from autellix_server.engine_bench.tables import tables
from autellix_server.engine_bench.usage import Memory


def turn(arm: str, number: int, alone: float, start_s: float = 30.0, rss_gb: float = 2.0) -> Turn:
    """Return a turn whose repetitions scatter around a speed of one call."""
    speeds = {"decode 1": [alone - 1, alone + 5, alone], "decode 16": [5 * alone], "prefill 512": [300.0]}
    memory = Memory(3, int(rss_gb * 1e9), int(1e9), int(3e9))
    return Turn(arm, number, start_s, speeds, memory, client_busy=0.1, others_busy=0.05)


def results(*turns: Turn) -> Results:
    """Return results of turns of a model of 200 MB on a machine that reads 20 GB/s at its best."""
    found = Results({"stock": 200_000_000, "ours": 200_000_000})
    found.turns += turns
    found.bandwidths += [Bandwidth(18e9, "sum", 2), Bandwidth(20e9, "dot", 2)]
    return found


PAIRS = results(
    *(turn("stock", 0, 10), turn("ours", 0, 30)),
    *(turn("ours", 1, 24), turn("stock", 1, 20)),
    *(turn("stock", 2, 10), turn("ours", 2, 15, start_s=45, rss_gb=1)),
)


def test_ratios_are_between_turns_of_one_round() -> None:
    """The median of the ratios is not the ratio of the medians."""
    by_what = {ratio.what: ratio for ratio in PAIRS.ratios}
    alone = by_what["decode 1"]
    assert (alone.arm, list(alone.rounds), alone.median, alone.aim) == ("ours", [3.0, 1.2, 1.5], 1.5, 2.0)
    assert list(by_what[START].rounds) == [1.0, 1.0, 1.5]
    assert (list(by_what[RSS].rounds), by_what[RSS].aim) == ([1.0, 1.0, 0.5], None)


def test_a_round_that_was_cut_short_has_no_ratio() -> None:
    """Its turn counts for the medians all the same."""
    found = results(turn("stock", 0, 10), turn("ours", 0, 30), turn("ours", 1, 50))
    assert [list(ratio.rounds) for ratio in found.ratios if ratio.what == "decode 1"] == [[3.0]]
    assert found.to_json()["medians"]["ours"]["decode 1"] == 40


def test_aims_are_the_engines_as_it_comes() -> None:
    """Another server has none."""
    found = results(turn("stock", 0, 10), turn("llama.cpp", 0, 30))
    assert {ratio.aim for ratio in found.ratios} == {None}


def test_the_floor_is_the_weights_by_the_fastest_reading() -> None:
    """200 MB at 20 GB/s take 10 ms; a step of one call took 100 and 41.7 ms in the median of the rounds."""
    stock, ours = PAIRS.floors
    assert (stock.floor_s, stock.step_s, stock.share) == pytest.approx((0.01, 0.1, 0.1))
    assert ours.share == pytest.approx(0.01 * 24)


def test_weights_that_are_not_known_have_no_floor() -> None:
    """Nor has a bench without a single call, or without a bandwidth."""
    assert results(turn("llama.cpp", 0, 30)).floors == []
    crowd = replace(turn("stock", 0, 10), tokens_per_s={"decode 16": [50.0]})
    assert results(crowd).floors == []
    unread = results(turn("stock", 0, 10))
    unread.bandwidths.clear()
    assert unread.floors == []


def test_warnings_name_what_spoils_the_figures() -> None:
    """A busy machine, a busy client, a single round."""
    found = results(turn("stock", 0, 10), replace(turn("ours", 0, 30), client_busy=0.7, others_busy=1.24))
    machine, client, rounds = found.warnings
    assert "took up to 1.2 cores" in machine
    assert "70 % of a core" in client
    assert "--rounds 3" in rounds
    assert PAIRS.warnings == []


def test_tables_show_medians_with_their_spread() -> None:
    """Speeds, costs, ratios with aims reached or missed, and the floor; stock first."""
    speeds, costs, ratios, floors = tables(PAIRS)
    assert speeds.rows[0] == ("stock", "10 (10 to 20)", "50 (50 to 100)", "300 (300 to 300)")
    assert costs.columns[0:3] == ("arm", START, RSS)
    assert costs.rows[1][1:3] == ("30 (30 to 45)", "2 (1 to 2)")
    assert ratios.rows[0] == ("ours / stock", "decode 1", "1.5 (1.2 to 3)", "3", "2: missed")
    assert floors.title == "the memory-bandwidth floor, 20.0 GB/s read by 2 threads (dot)"
    assert floors.rows[0] == ("stock", "200.0", "10.00", "100.00", "10 %")


def test_nothing_measured_is_nothing_shown() -> None:
    """Not even an empty table."""
    assert list(tables(Results({}))) == []
