"""The tree search example: search logic against a scripted model, and the command as a user runs it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from aiohttp import web
from conftest import RunExample
from fake_openai import FakeOpenAI, Reply, connected
from game24 import verify
from lats import DEFAULTS, Findings, Settings, parse_vote
from mcts import Result, run_program, summary

PUZZLE = (4, 9, 10, 13)
STEPS = {
    "4 9 10 13": "10 - 4 = 6\n9 - 4 = 5\n99 + 1 = 100",
    "6 9 13": "13 - 9 = 4",
    "5 10 13": "5 + 10 = 15",
    "4 6": "4 * 6 = 24",
}
"""Proposals of a model that knows the way, with a wrong turn and an illegal step on it."""


def is_value_call(messages: list[dict[str, str]]) -> bool:
    """Whether the model is asked for a verdict rather than for steps."""
    return "impossible" in messages[0]["content"]


def expert(messages: list[dict[str, str]]) -> Reply:
    """A model that proposes `STEPS` and likes what leads to the solution."""
    numbers = messages[-1]["content"].removeprefix("Numbers: ")
    if is_value_call(messages):
        return "sure" if numbers in STEPS and numbers != "5 10 13" else "impossible"
    return STEPS.get(numbers, "I give up")


async def search(fake: FakeOpenAI, settings: Settings = DEFAULTS, numbers: tuple[int, ...] = PUZZLE) -> Result:
    """One program against the fake server, without retries."""
    async with connected(fake) as client:
        return await run_program(client, "default", numbers, settings)


async def test_the_models_own_moves_solve_the_puzzle() -> None:
    """Without random moves the solution is the model's; illegal proposals are counted, the proof holds."""
    async with FakeOpenAI(expert) as fake:
        result = await search(fake, replace(DEFAULTS, rollout="model", samples=2))
    assert result.found.solution is not None
    assert verify(result.found.solution, PUZZLE)
    assert result.found.source == "model"
    assert result.found.illegal == 2
    assert result.error is None
    assert result.calls == len(fake.bodies)
    assert set(fake.programs) == {result.bill["program"]}


async def test_random_moves_are_owned_up_to() -> None:
    """When the model proposes nothing, a solution is the rollouts', and every empty expansion is counted."""
    async with FakeOpenAI(lambda _: "no idea") as fake:
        result = await search(fake, replace(DEFAULTS, iterations=60, samples=1, width=8), (1, 2, 3, 4))
    assert result.found.source == "rollout"
    assert verify(str(result.found.solution), (1, 2, 3, 4))
    assert result.found.empty_expansions == result.found.iterations
    assert result.found.legal == 0
    assert result.found.unreadable_votes > 0


async def test_without_random_moves_nothing_is_invented() -> None:
    """A model without proposals leaves the tree at its root, and every iteration is spent on asking again."""
    async with FakeOpenAI(lambda _: "no idea") as fake:
        result = await search(fake, replace(DEFAULTS, rollout="model", iterations=3, parallel=1, samples=2))
    assert result.found == Findings(iterations=3, empty_expansions=3)
    assert result.calls == 6


async def test_a_tree_without_solution_is_exhausted() -> None:
    """When all that the model proposes is closed, the search ends before its iterations are spent."""
    steps = {"1 1 1 1": "1 + 1 = 2", "1 1 2": "1 + 1 = 2", "2 2": "2 * 2 = 4"}

    def rule(messages: list[dict[str, str]]) -> Reply:
        return "likely" if is_value_call(messages) else steps[messages[-1]["content"].removeprefix("Numbers: ")]

    async with FakeOpenAI(rule) as fake:
        result = await search(fake, replace(DEFAULTS, rollout="model", iterations=50), (1, 1, 1, 1))
    assert (result.solvable, result.found.solution) == (False, None)
    assert (result.found.iterations, result.found.nodes) == (3, 4)


async def test_the_seed_decides_everything_but_the_model() -> None:
    """Same seed and same replies: same findings, whatever the order of arrival; another seed: another search."""
    settings = replace(DEFAULTS, iterations=8, parallel=3)
    found: list[dict[str, Any]] = []
    for seed in (1, 1, 2):
        async with FakeOpenAI(lambda _: "4 + 9 = 13\n10 - 9 = 1\nlikely") as fake:
            result = await search(fake, replace(settings, seed=seed), (5, 9, 10, 4))
        found.append(asdict(result.found) | {"asked": sorted(body["messages"][-1]["content"] for body in fake.bodies)})
    assert found[0] == found[1]
    assert found[0] != found[2]


async def test_samples_are_asked_side_by_side() -> None:
    """All proposal calls of an expansion are in flight before any is answered."""
    together = asyncio.Barrier(4)

    async def rule(messages: list[dict[str, str]]) -> Reply:
        await together.wait()
        return "nothing"

    async with FakeOpenAI(rule) as fake:
        result = await search(fake, replace(DEFAULTS, rollout="model", iterations=1, samples=4))
    assert result.calls == 4


@pytest.mark.parametrize(
    "garbage", [None, "", "+ - * /" * 9999, "9" * 5000 + " + 1", "🦜\ud800\x00", "1/0 + 3/0\n1 / 0"]
)
async def test_garbage_is_survived(garbage: Reply) -> None:
    """Any content leads to a finished search without an error."""
    async with FakeOpenAI(lambda _: garbage) as fake:
        result = await search(fake, replace(DEFAULTS, iterations=3), (1, 1, 1, 1))
    assert (result.error, result.found.solution) == (None, None)
    assert json.dumps(result.to_json())


async def test_a_refused_call_ends_the_program_with_a_sentence() -> None:
    """What was found so far is kept; nested task groups do not hide the reason."""

    def rule(messages: list[dict[str, str]]) -> Reply:
        return web.json_response({"error": {"message": "full"}}, status=400) if is_value_call(messages) else "4 + 9"

    async with FakeOpenAI(rule) as fake:
        result = await search(fake)
    assert str(result.error).startswith(f"the server at {fake.url} answered 400: ")
    assert (result.found.iterations, result.found.nodes) == (1, 2)


@pytest.mark.parametrize(
    ("reply", "vote"),
    [
        ("10 + 14 = 24. sure", 1.0),
        ("It is likely. No: IMPOSSIBLE!", 0.0),
        ("likely", 0.5),
        ("unlikely, surely", None),
        ("", None),
    ],
)
def test_votes_are_whole_words(reply: str, vote: float | None) -> None:
    """The last verdict counts."""
    assert parse_vote(reply) == vote


def test_the_summary_tells_model_from_luck() -> None:
    """Solved puzzles are split by who found the solution, and unsolvable ones are not held against anyone."""

    def result(solvable: bool = True, error: str | None = None, **found: str) -> Result:
        return Result(PUZZLE, solvable, Findings(**found), 1, 1.0, error, {})  # type: ignore[arg-type]

    results = [
        result(solution="x", source="model"),
        result(solution="y", source="rollout"),
        result(solvable=False),
        result(error="gone"),
    ]
    assert summary(results) == (
        "4 programs: 2 of 3 solvable puzzles solved, 1 by the model's own moves and 1 with random moves; 1 failed."
    )


async def test_the_command_prints_one_object_per_program(run_example: RunExample) -> None:
    """Two puzzles at once, JSON on standard output only, each its own program, exit code 0."""
    numbers = ("--numbers", "4", "9", "10", "13", "--numbers", "1", "1", "1", "1")
    async with FakeOpenAI(expert) as fake:
        done = await run_example("mcts.py", "--json", "--concurrency", "2", *numbers, "--base-url", fake.url)
    assert done.code == 0, done.err
    records = {tuple(record["numbers"]): record for record in map(json.loads, done.out.splitlines())}
    assert records[PUZZLE]["source"] in ("model", "rollout")
    assert records[1, 1, 1, 1]["solution"] is None
    assert records[1, 1, 1, 1]["solvable"] is False
    assert set(fake.programs) == {record["bill"]["program"] for record in records.values()}
    assert "2 programs: 1 of 1 solvable puzzles solved" in done.err


async def test_a_short_run_of_the_built_in_puzzles(run_example: RunExample) -> None:
    """The limits keep a run short, and results go to standard output."""
    few = ("--limit", "2", "--iterations", "1", "--samples", "1", "--width", "1")
    async with FakeOpenAI(lambda _: "1 + 2\n4 + 6\nlikely") as fake:
        done = await run_example("mcts.py", *few, "--base-url", fake.url)
    assert done.code == 0, done.err
    assert len(fake.bodies) == 4
    assert "2 programs: " in done.out.splitlines()[-1]


async def test_a_server_that_is_not_there_is_one_sentence(run_example: RunExample) -> None:
    """Exit code 1, no traceback, although the calls fail inside task groups."""
    done = await run_example("mcts.py", "--base-url", "http://127.0.0.1:1/v1")
    assert done.code == 1
    assert done.err.count("error: the server at http://127.0.0.1:1/v1 cannot be reached: ") == 1
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "usage", [("--numbers", "1", "2"), ("--numbers", "1", "2", "3", "x"), ("--samples", "0"), ("--rollout", "dice")]
)
async def test_bad_usage_exits_with_2(run_example: RunExample, usage: tuple[str, ...]) -> None:
    """The command line is checked before anything runs."""
    done = await run_example("mcts.py", *usage)
    assert done.code == 2
    assert "mcts.py: error: " in done.err
