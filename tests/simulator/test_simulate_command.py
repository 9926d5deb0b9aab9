"""`autellix simulate`: what it prints, and how it refuses."""

from __future__ import annotations

import gc
import json
import re
from pathlib import Path
from weakref import ReferenceType, ref

import pytest

from autellix_server import cli
from autellix_server.balancing.balancer import BALANCERS
from autellix_server.scheduling.policies import POLICIES
from autellix_server.simulator.model import PRESETS
from autellix_server.simulator.programs import SimProgram
from autellix_server.simulator.run import Simulation
from autellix_server.traces.workloads.registry import WORKLOADS

SMALL = ["simulate", "--workload", "chat", "--programs", "12"]


def test_rates_give_one_summary_for_each_policy_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """Results are JSON on standard output, where infinity is a text; progress is on standard error."""
    assert cli.main([*SMALL, "--policies", "fcfs,plas", "--rates", "1,inf", "--json"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert [(run["policy"], run["rate"]) for run in result["runs"]] == [
        ("fcfs", 1.0),
        ("plas", 1.0),
        ("fcfs", "inf"),
        ("plas", "inf"),
    ]
    assert result["runs"][0]["everything"]["programs"] == 12
    assert "derived from published figures" in result["model"]["source"]
    assert "autellix: simulating" in shown.err


@pytest.mark.parametrize("rates", [["--rates", "2,4"], pytest.param([], marks=pytest.mark.slow)])
def test_nothing_looks_for_cycles_while_it_simulates(rates: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """There are none to find during a run; a simulation that is over is gone before the next one runs."""
    found: list[tuple[bool, int, int]] = []
    simulations: list[ReferenceType[Simulation]] = []
    run = Simulation.run

    def watched(simulation: Simulation) -> list[SimProgram]:
        alive = sum(earlier() is not None for earlier in simulations)
        simulations.append(ref(simulation))
        gc.collect()
        enabled, ended = gc.isenabled(), run(simulation)
        found.append((enabled, alive, gc.collect()))
        return ended

    monkeypatch.setattr(Simulation, "run", watched)
    assert cli.main([*SMALL, "--policies", "fcfs,auto", *rates, "--json"]) == 0
    assert len(found) >= 4
    assert set(found) == {(False, 0, 0)}
    assert gc.isenabled()


def test_same_seed_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """And another seed something else."""
    outputs = []
    for seed in ("1", "1", "2"):
        assert cli.main([*SMALL, "--rates", "2", "--policies", "auto", "--seed", seed, "--json"]) == 0
        outputs.append(json.loads(capsys.readouterr().out)["runs"])
    assert outputs[0] == outputs[1] != outputs[2]


def test_without_rates_the_throughput_is_searched(capsys: pytest.CaptureFixture[str]) -> None:
    """One rate with its interval for each policy."""
    assert cli.main([*SMALL, "--policies", "fcfs,srpt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["throughput"]
    assert [one["policy"] for one in found] == ["fcfs", "srpt"]
    assert all(one["interval"]["low"] <= one["rate"] <= one["interval"]["high"] for one in found)


@pytest.mark.parametrize("rates", [["--rates", "2"], []])
def test_tables_are_for_people(rates: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """They say where the model's numbers are from."""
    assert cli.main([*SMALL, "--policies", "fcfs", "--engines", "2", *rates]) == 0
    shown = capsys.readouterr().out
    assert "2 x a100-8b (derived from published figures" in shown
    assert "fcfs" in shown


def test_trace_file_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `autellix trace generate` writes it; --programs takes the first of them."""
    trace = tmp_path / "chat.jsonl"
    assert cli.main(["trace", "generate", "--workload", "chat", "--programs", "8", "--output", str(trace)]) == 0
    capsys.readouterr()
    assert cli.main(["simulate", "--trace", str(trace), "--programs", "5", "--rates", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["programs"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "chess"], "--workload: there is no workload 'chess'; use one of chat, react"),
        (["--workload", "chat", "--policies", "fcfs,sjf"], "--policies: unknown policy 'sjf'; choose one of: atlas"),
        (["--workload", "chat", "--preset", "tpu"], "--preset: unknown preset 'tpu'; choose one of: a100-8b"),
        (["--workload", "chat", "--balancer", "best"], "--balancer: unknown balancer 'best'; choose one of: affinity"),
        (["--trace", "missing.jsonl"], "missing.jsonl: the file cannot be opened"),
    ],
)
def test_wrong_name_is_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the flag and what there is to choose from."""
    assert cli.main(["simulate", *arguments]) != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rates", "1,x"], "argument --rates: '1,x' is not a list of rates above 0"),
        (["--rates", "-1"], "argument --rates"),
        (["--slowdown", "1"], "argument --slowdown: '1' is not a number over 1"),
        (["--engines", "0"], "argument --engines: '0' is not a whole number of 1 or more"),
        (["--policies", "fcfs,,plas"], "argument --policies: 'fcfs,,plas' has an empty name"),
        (["--trace", "also.jsonl"], "not allowed with argument --workload"),
    ],
)
def test_wrong_value_is_refused_with_its_flag(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By argparse, with status 2."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(["simulate", "--workload", "chat", *arguments])
    assert message in capsys.readouterr().err


def test_empty_trace_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing to simulate."""
    (tmp_path / "empty.jsonl").write_text("")
    assert cli.main(["simulate", "--trace", str(tmp_path / "empty.jsonl")]) == 1
    assert "has no programs" in capsys.readouterr().err


def test_help_names_what_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    """Every policy, workload, preset and balancer."""
    with pytest.raises(SystemExit):
        cli.main(["simulate", "--help"])
    words = set(re.findall(r"[\w-]+", capsys.readouterr().out))
    assert words >= {*POLICIES, *WORKLOADS, *PRESETS, *BALANCERS}
