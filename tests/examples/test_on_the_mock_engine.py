"""Every example as a user runs it, on a gateway with the mock engine, whose answers are words without meaning."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from runpy import run_path

import pytest
from conftest import EXAMPLES, RunExample

import autellix_sdk as autellix
from autellix_server.traces.jsonl import read_programs
from tests.gateway.fake_engine import SECRET, FakeEngine, ready, running_gateway
from tests.mock_engine.mock_world import running_mock, simulation

Graph = list[tuple[int, set[str]]]
"""Thread and parents of each call, in the order in which they arrived; calls are numbered from 0."""


def chain(calls: int) -> Graph:
    """One call after the other."""
    return [(0, {str(call - 1)} if call else set()) for call in range(calls)]


def shape(graph: Graph) -> list[str]:
    """Tell a graph's calls by what they wait for and continue: which branch comes first is left to chance."""
    told: list[str] = []
    tails: dict[int, str] = {}
    for thread, parents in graph:
        tails[thread] = f"({''.join(sorted(told[int(parent)] for parent in parents))}|{tails.get(thread, '')})"
        told.append(tails[thread])
    return sorted(told)


FORK: Graph = [(0, set()), (0, {"0"}), (1, {"0"}), (0, {"1", "2"})]
"""A call, two that run side by side after it, and one that waits for both."""

RUNS: dict[str, tuple[tuple[str, ...], str, list[Graph]]] = {
    "chat.py": (("--limit", "2", "--concurrency", "2"), "chat", [chain(4), chain(4)]),
    "react.py": (("--limit", "2", "--max-steps", "3", "--concurrency", "2"), "react", [chain(4), chain(4)]),
    "map_reduce.py": (
        ("--limit", "1"),
        "map_reduce",
        [[(0, set()), (1, set()), (2, set()), (0, {"0", "1", "2"})]],
    ),
    "mcts.py": (
        ("--numbers", "1", "1", "1", "1", "--iterations", "1", "--samples", "3"),
        "mcts",
        [[(0, set()), (1, set()), (2, set())]],
    ),
    "langchain_agent.py": (("--limit", "2", "--concurrency", "2"), "langchain", [chain(1), chain(1)]),
    "langgraph_agent.py": (("--limit", "1", "--rounds", "1", "--max-tokens", "1"), "langgraph", [FORK]),
}
"""Command line, name of the programs, and their call graphs."""


@asynccontextmanager
async def served(trace: Path) -> AsyncIterator[str]:
    """A gateway with the mock engine behind it, which records a trace."""
    async with (
        running_mock(simulation("plas"), secret=SECRET, engine_name="e0") as mock,
        running_gateway(FakeEngine(ready(mock.url)), record_trace=str(trace)) as gateway,
    ):
        yield f"{gateway.url}/v1"


def test_every_example_is_run() -> None:
    """What is in the folder and can be started."""
    assert set(RUNS) == {path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text()}


@pytest.mark.parametrize("script", RUNS)
async def test_programs_and_their_call_graphs(run_example: RunExample, tmp_path: Path, script: str) -> None:
    """As many programs as tasks, with the calls, threads and parents that the agent has, and the server's bill."""
    options, name, graphs = RUNS[script]
    trace = tmp_path / "trace.jsonl"
    async with served(trace) as base_url:
        done = await run_example(script, "--json", *options, env={"AUTELLIX_BASE_URL": base_url})
    assert done.code == 0, done.err
    programs = {program.program_id.partition(".")[0]: program for program in read_programs(trace)}
    assert {program.kind for program in programs.values()} == {name}
    found = [[(call.thread, set(call.parents)) for call in program.calls] for program in programs.values()]
    assert list(map(shape, found)) == list(map(shape, graphs))
    for record in map(json.loads, done.out.splitlines()):
        bill = record["bill"]
        assert record["error"] is None
        assert len(programs[bill["program"]].calls) == record["calls"] == bill["calls"] > 0
        assert bill["prefill_us"] > 0


@pytest.mark.parametrize("script", RUNS)
def test_a_server_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str
) -> None:
    """Exit code 1, and the remaining programs are not tried."""
    monkeypatch.setattr(sys, "argv", [script, "--base-url", "http://127.0.0.1:1/v1"])
    with pytest.raises(SystemExit, match=r"^1$"):
        run_path(str(EXAMPLES / script), run_name="__main__")
    autellix.shutdown()
    printed = capsys.readouterr()
    assert printed.err.count("error: the server at http://127.0.0.1:1/v1 cannot be reached: ") == 1
    assert printed.out.count("failed: ") == 1


@pytest.mark.parametrize("script", RUNS)
def test_help_shows_command_lines(capsys: pytest.CaptureFixture[str], script: str) -> None:
    """What the agent does, how to start it, what it needs and what it is to an Autellix server."""
    with pytest.raises(SystemExit, match=r"^0$"):
        import_module(script.removesuffix(".py")).parse_arguments(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"python examples/{script} " in shown
    assert "Works with any OpenAI-compatible server (--base-url)." in shown
    assert "the lines marked `# autellix` are all it takes" in shown
    assert "--model" in shown
