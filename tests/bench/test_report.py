"""The outcome: one JSON object, and a page that needs nothing but itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from bench_world import A, B, answered, bill, ran, round_of

from autellix_sdk.errors import UsageError
from autellix_server.bench.outcome import SCHEMA, Outcome, find_outcome
from autellix_server.bench.plan import ALONE, Arm, Pace
from autellix_server.bench.records import RoundRecord
from autellix_server.bench.report import render, report_files, write_report
from autellix_server.bench.tables import tables


def outcome_of(*rounds: RoundRecord, interrupted: bool = False, **more: Any) -> Outcome:
    """Return what the rounds add up to."""
    return find_outcome(
        rounds,
        {"source": "mine.jsonl", "seed": 3, **more},
        facts={"a": {"model": "tiny", "version": "1"}},
        complaints={"a": ["it does not force lengths"]},
        slowdown=2.0,
        seed=3,
        interrupted=interrupted,
    )


def comparison() -> Outcome:
    """Return two arms at two rates, with bills, two kinds and a failure."""
    rounds = [round_of(ran(0), ran(1), arm=arm, pace=ALONE) for arm in (A, B)]
    for rate, latency_s in ((1.0, 1.5), (2.0, 4.0)):
        for arm, factor in ((A, 1.0), (B, 0.8)):
            calls = (answered(latency_s * factor, bill=bill(400_000, 100_000), lag_s=0.002),)
            programs = [ran(number, latency_s * factor, calls=calls, kind="chat") for number in range(3)]
            programs.append(ran(3, latency_s, kind="react"))
            programs.append(ran(4, calls=(), failure="status 500: <b>broken</b>"))
            rounds.append(round_of(*programs, arm=arm, pace=Pace(rate)))
    return outcome_of(*rounds)


@pytest.fixture(scope="module")
def page() -> str:
    """The page of `comparison`."""
    return render(comparison())


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    """No script, no link out, no resource of anybody else's."""
    assert all(link.startswith("#") for link in re.findall(r'(?:href|src)="([^"]*)"', page))
    assert "<script" not in page
    assert "@import" not in page
    assert "url(http" not in page
    assert page.count("<svg ") == 6  # two distributions, rates, kinds, causes, lag
    assert "prefers-color-scheme: dark" in page


def test_what_servers_say_is_escaped(page: str) -> None:
    """A server's words are no markup of the page's."""
    assert "&lt;b&gt;broken&lt;/b&gt;" in page
    assert "<b>broken" not in page


def test_the_json_object_has_its_shape() -> None:
    """Every number of the page, under names that stay."""
    document = json.loads(json.dumps(comparison().to_json(with_programs=True), allow_nan=False))
    assert document["schema"] == SCHEMA
    assert set(document) == {
        *("schema", "interrupted", "settings", "environment", "servers", "method", "warnings"),
        *("results", "pairs", "equal_latency", "programs"),
    }
    first, *_, last = document["results"]
    assert (first["arm"], first["pace"], first["rate"]) == ("a", "one at a time", None)
    assert (last["arm"], last["pace"], last["rate"]) == ("b", "at 2 programs/s", 2.0)
    assert last["failures"] == {"status 500: <b>broken</b>": 1}
    assert set(last["everything"]["token_latency_s"]) == {"mean", "p50", "p95", "p99"}
    assert set(last["client"]) == {"lag_mean_s", "lag_p99_s", "lag_max_s", "lag_share", "cpu_share"}
    assert [(pair["arm"], pair["base"], pair["rate"]) for pair in document["pairs"]] == [
        ("b", "a", 1.0),
        ("b", "a", 2.0),
    ]
    assert [one["reach"] for one in document["equal_latency"]] == ["crossed", "crossed"]
    assert len(document["programs"]) == 2 * 2 + 4 * 5
    assert "programs" not in comparison().to_json()


def test_paces_without_a_finite_rate_are_json_too() -> None:
    """All at once is no number of JSON's."""
    document = outcome_of(round_of(ran(0), pace=Pace(float("inf"))), round_of(ran(0), pace=Pace(None))).to_json()
    json.dumps(document, allow_nan=False)
    assert [one["rate"] for one in document["results"]] == [None, None]


def test_readers_are_warned() -> None:
    """Of failures, complaints, few programs, lengths, a slow client and an interruption."""
    slow = ran(0, calls=(answered(1.0, lag_s=0.5, tokens=3),))
    outcome = outcome_of(round_of(slow, ran(1, calls=(), failure="cut off"), planned=9), interrupted=True)
    said = "\n".join(outcome.warnings)
    for words in (
        "Interrupted: programs under way",
        "a: it does not force lengths.",
        "1 of 2 programs failed, and their times are left out: 1 x cut off",
        "1 programs count: P99",
        "1 of 1 answers were not as long as asked for",
        "the client itself was slow: calls left 500.0 ms late",
    ):
        assert words in said


def test_tables_are_rectangular_and_ratios_name_both_arms() -> None:
    """Each row has a cell for each column."""
    found = list(tables(comparison()))
    assert all(len(row) == len(table.columns) for table in found for row in table.rows)
    cells = [cell for table in found for row in table.rows for cell in row]
    assert "b / a" in cells


def test_an_outcome_in_which_all_failed_is_a_page_too() -> None:
    """Nothing to draw is nothing drawn."""
    page = render(outcome_of(round_of(ran(0, calls=(), failure="x"))))
    assert "no program counts" in page
    assert "<svg" not in page


@pytest.mark.parametrize(
    ("given", "html", "data"),
    [("out", "out/bench.html", "out/bench.json"), ("a.html", "a.html", "a.json"), ("b.json", "b.html", "b.json")],
)
def test_output_is_a_folder_or_one_of_the_files(tmp_path: Path, given: str, html: str, data: str) -> None:
    """Nothing is there before there is something to write."""
    assert report_files(tmp_path / given) == (tmp_path / html, tmp_path / data)
    assert not (tmp_path / html).exists()


def test_page_and_data_are_written(tmp_path: Path) -> None:
    """Over what is there."""
    files = report_files(tmp_path)
    files[0].write_text("before")
    write_report(outcome_of(round_of(ran(0, calls=(), failure="x"))), files)
    assert files[0].read_text().startswith("<!doctype html>")
    assert json.loads(files[1].read_text())["schema"] == SCHEMA


def test_an_output_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    """Hours later would be too late."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--output: .* cannot be written"):
        report_files(tmp_path / "file" / "below")


def test_nothing_tells_where_it_ran() -> None:
    """No URL of a server, no folder."""
    arms = (Arm("a", url="http://secret-host:1"), Arm("b", url="http://secret-host:2"))
    outcome = outcome_of(*(round_of(ran(0), arm=arm) for arm in arms))
    assert "secret-host" not in render(outcome) + json.dumps(outcome.to_json(with_programs=True))
