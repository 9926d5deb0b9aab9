"""The tree search example: search logic against a scripted model, and the command as a user runs it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Any

import pytest
from aiohttp import web
from conftest import RunExample
from fake_openai import FakeOpenAI, Reply, connected
from game24 import verify
from mcts import Result, parse_arguments, parse_vote, run_program, summary

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


async def search(fake: FakeOpenAI, *options: str, numbers: tuple[int, ...] = PUZZLE) -> Result:
    """One program against the fake server, without retries."""
    async with connected(fake) as client:
        return await run_program(client, numbers, parse_arguments(options))


async def test_the_models_own_moves_solve_the_puzzle() -> None:
    """The tree holds the model's moves only, so the solution is its own; illegal proposals are counted."""
    async with FakeOpenAI(expert) as fake:
        result = await search(fake, "--samples", "2", "--parallel", "1")
    assert result.solution is not None
    assert verify(result.solution, PUZZLE)
    assert result.source == "model"
    assert (result.legal, result.illegal) == (10, 2)
    assert (result.iterations, result.nodes) == (4, 6)
    assert result.error is None
    assert result.calls == len(fake.bodies)
    assert set(fake.programs) == {result.bill["program"]}


async def test_luck_is_owned_up_to() -> None:
    """When the model proposes nothing, a solution is a random rollout's, and the tree stays at its root."""
    async with FakeOpenAI(lambda _: "no idea") as fake:
        result = await search(fake, "--iterations", "200", "--samples", "1", numbers=(1, 2, 3, 4))
    assert result.source == "rollout"
    assert verify(str(result.solution), (1, 2, 3, 4))
    assert (result.legal, result.nodes) == (0, 1)
    assert result.calls == result.iterations


async def test_nothing_is_invented() -> None:
    """Without a solution every iteration is spent, and a root without proposals is asked about again."""
    async with FakeOpenAI(lambda _: "no idea") as fake:
        result = await search(fake, "--iterations", "3", "--samples", "2", numbers=(1, 1, 1, 1))
    assert (result.solution, result.source, result.solvable) == (None, None, False)
    assert (result.iterations, result.nodes, result.legal, result.illegal) == (3, 1, 0, 0)
    assert result.calls == 6


async def test_a_tree_without_solution_is_exhausted() -> None:
    """When all that the model proposes is finished, the search ends before its iterations are spent."""
    steps = {"1 1 1 1": "1 + 1 = 2", "1 1 2": "1 + 1 = 2", "2 2": "2 * 2 = 4"}

    def rule(messages: list[dict[str, str]]) -> Reply:
        return "likely" if is_value_call(messages) else steps[messages[-1]["content"].removeprefix("Numbers: ")]

    async with FakeOpenAI(rule) as fake:
        result = await search(fake, "--iterations", "50", numbers=(1, 1, 1, 1))
    assert (result.solvable, result.solution) == (False, None)
    assert (result.iterations, result.nodes) == (3, 4)


async def test_only_the_steps_proposed_most_often_are_kept() -> None:
    """The width bounds the children; an order of the numbers does not make another state."""
    replies = "4 + 9 = 13\n13 - 9 = 4\n9 + 4 = 13\n10 - 9 = 1"
    async with FakeOpenAI(lambda messages: "impossible" if is_value_call(messages) else replies) as fake:
        result = await search(fake, "--iterations", "1", "--samples", "1", "--width", "1")
    assert result.nodes == 2
    assert fake.bodies[-1]["messages"][-1]["content"] == "Numbers: 10 13 13"


async def test_the_seed_decides_everything_but_the_model() -> None:
    """Same seed and same replies: same result; another seed: other rollouts, found by another iteration."""
    found: list[dict[str, Any]] = []
    for seed in ("1", "1", "2"):
        async with FakeOpenAI(lambda _: "4 + 9 = 13\n10 - 9 = 1\nlikely") as fake:
            result = await search(fake, "--seed", seed, "--iterations", "40", numbers=(5, 9, 10, 4))
        told = {key: value for key, value in asdict(result).items() if key not in ("bill", "seconds")}
        found.append(told | {"asked": sorted(body["messages"][-1]["content"] for body in fake.bodies)})
    assert found[0] == found[1]
    assert found[0] != found[2]


async def test_samples_are_asked_side_by_side() -> None:
    """All proposal calls of an expansion are in flight before any is answered."""
    together = asyncio.Barrier(4)

    async def rule(messages: list[dict[str, str]]) -> Reply:
        await together.wait()
        return "nothing"

    async with FakeOpenAI(rule) as fake:
        result = await search(fake, "--iterations", "1", "--samples", "4")
    assert result.calls == 4


async def test_leaves_are_expanded_side_by_side() -> None:
    """With two leaves in parallel, the proposal calls for both are in flight before either is answered."""
    together = asyncio.Barrier(2)

    async def rule(messages: list[dict[str, str]]) -> Reply:
        if is_value_call(messages):
            return "likely"
        if messages[-1]["content"] == "Numbers: 1 1 1 1":
            return "1 + 1 = 2\n1 - 1 = 0"
        await together.wait()
        return "I give up"

    async with FakeOpenAI(rule) as fake:
        result = await search(fake, "--iterations", "3", "--parallel", "2", "--samples", "1", numbers=(1, 1, 1, 1))
    assert (result.error, result.iterations) == (None, 3)


@pytest.mark.parametrize(
    "garbage", [None, "", "+ - * /" * 9999, "9" * 5000 + " + 1", "🦜\ud800\x00", "1/0 + 3/0\n1 / 0"]
)
async def test_garbage_is_survived(garbage: Reply) -> None:
    """Any content leads to a finished search without an error."""
    async with FakeOpenAI(lambda _: garbage) as fake:
        result = await search(fake, "--iterations", "3", numbers=(1, 1, 1, 1))
    assert (result.error, result.solution) == (None, None)
    assert json.dumps(asdict(result))


async def test_a_refused_call_ends_the_program_with_a_sentence() -> None:
    """What was found so far is kept; nested task groups do not hide the reason."""

    def rule(messages: list[dict[str, str]]) -> Reply:
        return web.json_response({"error": {"message": "full"}}, status=400) if is_value_call(messages) else "4 + 9"

    async with FakeOpenAI(rule) as fake:
        result = await search(fake)
    assert str(result.error).startswith(f"the server at {fake.url} answered 400: ")
    assert (result.iterations, result.nodes) == (1, 2)


@pytest.mark.parametrize(
    ("reply", "vote"),
    [
        ("10 + 14 = 24. sure", 1.0),
        ("It is likely. No: IMPOSSIBLE!", 0.0),
        ("likely", 0.5),
        ("unlikely, surely impossibly", 0.5),
        ("", 0.5),
    ],
)
def test_votes_are_whole_words(reply: str, vote: float) -> None:
    """The last verdict counts; without one the state is undecided."""
    assert parse_vote(reply) == vote


def test_the_summary_tells_model_from_luck() -> None:
    """Solved puzzles are split by who found the solution, and unsolvable ones are not held against anyone."""

    results = [
        Result("mcts", numbers=PUZZLE, solvable=True, solution="x", source="model"),
        Result("mcts", numbers=PUZZLE, solvable=True, solution="y", source="rollout"),
        Result("mcts", numbers=PUZZLE, solvable=False),
        Result("mcts", numbers=PUZZLE, solvable=True, error="gone"),
    ]
    assert summary(results) == (
        "4 programs: 2 of 3 solvable puzzles solved, 1 by the model's own moves and 1 by random rollouts; 1 failed."
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


@pytest.mark.parametrize(
    "usage",
    [
        ("--numbers", "1", "2"),
        ("--numbers", "1", "2", "3", "x"),
        ("--samples", "0"),
        ("--rollout", "dice"),
        ("--limit", "-1"),
    ],
)
def test_bad_usage_exits_with_2(capsys: pytest.CaptureFixture[str], usage: tuple[str, ...]) -> None:
    """The command line is checked before anything runs."""
    with pytest.raises(SystemExit, match=r"^2$"):
        parse_arguments(usage)
    assert "error: " in capsys.readouterr().err
