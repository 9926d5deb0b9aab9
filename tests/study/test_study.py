"""The study: every job runs, the page is made of their results, and the same study gives the same page."""

from __future__ import annotations

import json
import re
from multiprocessing import active_children
from multiprocessing.connection import wait
from pathlib import Path
from xml.etree import ElementTree

import pytest

from autellix_server.cli import main
from autellix_server.study.jobs import Job, Result
from autellix_server.study.page import Page
from autellix_server.study.run import LOADS, run_study, scaled_down, stock_rates
from autellix_server.study.world import ARMS, OURS, STOCK, Workload, programs_of, settings_of
from autellix_server.traces.jsonl import write_programs

FEW = {"mixed": Workload(3)}


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """A study of three mixed programs."""
    return run_study(FEW, {}, 1, lambda stage, jobs: None, lambda job: None)


@pytest.fixture(scope="module")
def page(results: list[Result]) -> Page:
    """Its page, written."""
    made = Page(json.loads(json.dumps(results)), FEW, {})
    made.markdown()
    return made


def test_every_study_runs_every_arm(results: list[Result]) -> None:
    """Arms are complete in every study that compares them."""
    for study in ("curve", "load", "offline"):
        assert {one["arm"] for one in results if one["study"] == study} == set(ARMS)
    assert {one["load"] for one in results if one["study"] == "load"} == set(LOADS)


def test_loads_follow_from_the_stock_engines_curve(results: list[Result]) -> None:
    """Overload is a quarter above the rate at which the stock engine is five times slower than unloaded."""
    rates = stock_rates(results, "mixed")
    stock = next(one for one in results if one["study"] == "curve" and one["arm"] == STOCK)
    assert [found["slowdown"] for found in stock["throughput"]] == [2.0, 5.0, 10.0]
    assert rates["light"] == stock["throughput"][0]["rate"]
    assert rates["overload"] == pytest.approx(1.25 * rates["busy"])


def test_page_shows_its_plots_and_rectangular_tables(page: Page) -> None:
    """Every picture that the page shows is there and is SVG."""
    text = page.markdown()
    assert set(re.findall(r"\(results/([^)]+)\)", text)) == set(page.plots)
    for plot in page.plots.values():
        assert ElementTree.fromstring(plot).tag.endswith("svg")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) > 10
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_stock_engine_compares_with_itself_as_one(page: Page) -> None:
    """The baseline's row has the ratio 1 everywhere."""
    row = next(line for line in page.markdown().splitlines() if line.startswith(f"| {STOCK} |") and "x |" in line)
    assert re.findall(r"([\d.]+)x", row) == ["1.00"] * 3


def test_same_study_gives_the_same_results() -> None:
    """To the last bit."""
    jobs = [Job("offline", "chat", Workload(5), arm) for arm in (STOCK, OURS)]
    assert [job.run() for job in jobs] == [job.run() for job in jobs]


def test_arms_are_what_they_say() -> None:
    """The stock engine has no host; the paper's policies hold nothing; one of ours is not told names."""
    programs = programs_of("chat", Workload(3))
    assert settings_of(ARMS[STOCK], programs).model.host_tokens == 0
    assert settings_of(ARMS["plas"], programs).planner.hold_s == 0.0
    assert settings_of(ARMS[OURS], programs).planner.hold_s > 0.0
    assert not settings_of(ARMS["auto, no names"], programs).class_names


def test_quick_study_has_a_tenth_of_the_programs() -> None:
    """But never too few for a distribution."""
    assert scaled_down({"a": Workload(1200), "b": Workload(20)}) == {"a": Workload(120), "b": Workload(8)}


def test_command_writes_the_page_from_saved_results(
    results: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is simulated once can be written up again."""
    saved = tmp_path / "runs.json"
    saved.write_text(json.dumps(results))
    monkeypatch.setattr("autellix_server.study.world.WORKLOADS", FEW)
    assert main(["study", "--load", str(saved), "--output", str(tmp_path / "docs")]) == 0
    assert (tmp_path / "docs" / "results.md").read_text().startswith("# Results")
    assert (tmp_path / "docs" / "results" / "latency-mixed.svg").is_file()


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ("{", "runs.json is not JSON"),
        ('{"study": 1}', "runs.json has no results of a study; write it with --save"),
        ('[{"study": "curve"}]', "runs.json has no results of a study; write it with --save"),
        ("[]", "the results have none of study curve, workload mixed, arm fcfs"),
    ],
)
def test_what_is_no_study_is_not_written_up(
    saved: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said what is missing."""
    (tmp_path / "runs.json").write_text(saved)
    monkeypatch.setattr("autellix_server.study.world.WORKLOADS", FEW)
    assert main(["study", "--load", str(tmp_path / "runs.json"), "--output", str(tmp_path / "docs")]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "docs" / "results.md").exists()


@pytest.mark.parametrize(("flag", "words"), [("--save", "cannot be written"), ("--output", "cannot be made")])
def test_what_cannot_be_written_is_found_out_first(
    flag: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after half an hour."""

    def never(*arguments: object) -> list[Result]:
        raise AssertionError(arguments)

    monkeypatch.setattr("autellix_server.study.run.run_study", never)
    (tmp_path / "file").touch()
    assert main(["study", "--json", flag, str(tmp_path / "file" / "x")]) == 1
    assert words in capsys.readouterr().err


def test_trace_joins_the_workloads(tmp_path: Path) -> None:
    """Programs of a file are those of the workload."""
    trace = tmp_path / "mine.jsonl"
    programs = programs_of("chat", Workload(3))
    write_programs(trace, programs)
    assert programs_of("mine", Workload(3, trace)) == programs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output: name a folder"),
        (["--output", "x", "--load", "nowhere.json"], "--load: nowhere.json cannot be read"),
        (["--output", "x", "--trace", "chat={trace}"], "--trace: 'chat' is the name of a generated workload"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Naming the flag at fault."""
    trace = tmp_path / "mine.jsonl"
    write_programs(trace, programs_of("chat", Workload(3)))
    assert main(["study", *(argument.format(trace=trace) for argument in arguments)]) == 1
    assert message in capsys.readouterr().err


def test_interrupted_study_leaves_no_workers() -> None:
    """What is under way is dropped, and what is to come is not begun."""

    def interrupt(job: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study({"chat": Workload(3)}, {}, 2, lambda stage, jobs: None, interrupt)
    # Not `is_alive`: the pool's own thread may be the one that learns how a worker ended.
    for worker in active_children():
        assert wait([worker.sentinel], timeout=10.0)
