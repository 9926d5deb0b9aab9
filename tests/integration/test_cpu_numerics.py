"""The CPU engine's numbers: in float32 transformers' own answers, token for token; in bfloat16 as near as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from statistics import mean

import httpx
import pytest

from autellix_sdk.wire import PROGRAM_HEADER
from autellix_server.engine_bench.arms import STOCK_ARGUMENTS, STOCK_VARIABLES
from tests.integration.bare_engine import BareEngine, bare_engine, launch_of
from tests.integration.completions import Answer, complete
from tests.integration.reference import Case, Expected, Told, expected_answers, scores, story
from tests.integration.server import Server

pytestmark = pytest.mark.engine

CHUNK = 512
"""Prompt tokens that the engine computes at a time: longer prompts come in parts."""

AROUND_CHUNKS = (CHUNK, 1, CHUNK + 1, CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1)

SPOKEN = [story(f"spoken {number}", sentences) for number, sentences in enumerate((2, 4, 6, 8, 12, 20, 40, 60))]
SPOKEN_TOKENS = 48

AS_NEAR = {"prompts": 1.25, "answers": 1.5}
"""What the mean error of log probabilities in bfloat16 may be of another implementation's, which rounds elsewhere.

Over 2,500 tokens of prompts stock SGLang is 0.0285 from float32 and transformers itself 0.0294, over 384 of answers
0.0169 and 0.0175: that is what the format costs, whoever computes. Answers are allowed more: few tokens scatter."""


@dataclass(frozen=True)
class Size:
    """How much is asked for.

    Attributes:
        short: prompts of 20 to 150 tokens.
        edges: prompts of lengths around those of chunks.
        long: prompts of 1,000 to 3,000 tokens.
        families: beginnings, of several chunks, that prompts share.
        members: prompts that go on from each of them.
        turns: prompts that go on from one of them and its answer.
        tokens: of each answer.
    """

    short: int
    edges: int
    long: int
    families: int
    members: int
    turns: int
    tokens: int

    def heads(self) -> list[Case]:
        """Return the prompts that others go on from."""
        return [Case(story(f"head {number}", 45 + 30 * number)) for number in range(self.families)]

    def others(self) -> list[Case]:
        """Return all other prompts; cases are numbered from the first head."""
        short = [Case(story(f"short {number}", 1 + number % 8)) for number in range(self.short)]
        edges = [Case(story(f"edge {length}", 80), length) for length in AROUND_CHUNKS[: self.edges]]
        step = 2000 // max(1, self.long - 1)
        long = [Case(story(f"long {number}", 220), 1000 + step * number) for number in range(self.long)]
        members = [
            Case(f"{head.text} {story(f'member {number}', 1 + 3 * number)}")
            for head in self.heads()
            for number in range(self.members)
        ]
        turns = [Case(f" {story(f'turn {number}', 2)}", after=number % self.families) for number in range(self.turns)]
        return [*short, *edges, *long, *members, *turns]


QUICK = Size(short=6, edges=3, long=1, families=1, members=3, turns=1, tokens=12)
FULL = Size(short=16, edges=6, long=8, families=3, members=4, turns=5, tokens=24)
SIZES = [pytest.param(QUICK, id="quick"), pytest.param(FULL, id="full", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def exact(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareEngine]:
    """An engine in float32 that serves whoever comes first: nothing but its arithmetic is under test."""
    launch = replace(launch_of(engine_python, "--chunked-prefill-size", str(CHUNK)), policy="fcfs")
    with bare_engine(launch, tmp_path_factory.mktemp("engine") / "log") as engine:
        yield engine


@pytest.mark.parametrize("size", SIZES)
def test_float32_answers_are_those_of_transformers(exact: BareEngine, engine_python: Path, size: Size) -> None:
    """Long and short, in chunks, side by side, behind cached beginnings; then all again, from the cache alone."""
    heads, others = size.heads(), size.others()
    expected = expected_answers(engine_python, [*heads, *others], size.tokens)
    assert exact.flush()

    async def run() -> tuple[list[Answer], list[Answer]]:
        async with exact.client() as http:
            first = await _answers(http, expected[: len(heads)], size.tokens)
            first += await _answers(http, expected[len(heads) :], size.tokens)
            return first, await _answers(http, expected, size.tokens)

    first, again = asyncio.run(run())
    assert _differences(first, expected) == []
    assert _differences(again, expected) == []
    served = [one.prompt + one.output[:-1] for one in expected[: len(heads)]]
    for answer, one in zip(first[len(heads) :], expected[len(heads) :], strict=True):
        assert answer.bill.cached_tokens >= max(_shared(one.prompt[:-1], earlier) for earlier in served)
    assert [answer.bill.cached_tokens for answer in again] == [len(one.prompt) - 1 for one in expected]


def test_steps_do_not_overlap_by_themselves(exact: BareEngine) -> None:
    """A CPU has computed a step when it is launched: its tokens need not wait for the next one."""
    assert exact.info()["disable_overlap_schedule"] is True


async def _answers(http: httpx.AsyncClient, expected: Sequence[Expected], tokens: int) -> list[Answer]:
    """Ask for all at once."""
    calls = (
        complete(http, one.prompt, tokens, f"program-{number}", return_token_ids=True)
        for number, one in enumerate(expected)
    )
    return await asyncio.gather(*calls)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _differences(answers: Sequence[Answer], expected: Sequence[Expected]) -> list[str]:
    """Say where answers leave those expected, and how near a tie that was."""
    found = []
    for number, (answer, one) in enumerate(zip(answers, expected, strict=True)):
        if answer.tokens != one.output:
            at = _shared(answer.tokens, one.output)
            lead = f"{one.leads[at]:.2g}" if at < len(one.leads) else "none"
            found.append(f"case {number}, {len(one.prompt)} prompt tokens: other token at {at}, whose lead is {lead}")
    return found


def test_bfloat16_is_as_near_to_float32_as_transformers_comes(server: Server, engine_python: Path) -> None:
    """What the server, as it comes, says of prompts and of its own answers, beside transformers in both precisions."""

    async def run() -> list[Told]:
        async with httpx.AsyncClient(base_url=server.base_url, timeout=240) as http:
            return await _tell(http, SPOKEN[:6])

    told = asyncio.run(run())
    found = scores(engine_python, told)
    ours, theirs = (_errors(told, said, found.float32) for said in ([one.logprobs for one in told], found.bfloat16))
    assert _too_far(ours, theirs) == []


@pytest.mark.slow
def test_bfloat16_is_as_near_to_float32_as_stock_comes(engine_python: Path, tmp_path: Path) -> None:
    """The engine as it comes beside the same with SGLang's own attention and operations."""

    async def run(engine: BareEngine) -> list[Told]:
        async with engine.client() as http:
            return await _tell(http, SPOKEN)

    found = []
    for variables, arguments in (({}, ()), (STOCK_VARIABLES, STOCK_ARGUMENTS)):
        launch = replace(launch_of(engine_python, "--dtype", "bfloat16", *arguments), policy="fcfs")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            with bare_engine(launch, tmp_path / "log") as engine:
                told = asyncio.run(run(engine))
        found.append(_errors(told, [one.logprobs for one in told], scores(engine_python, told).float32))
    ours, stock = found
    assert _too_far(ours, stock) == []


async def _tell(http: httpx.AsyncClient, prompts: Sequence[str]) -> list[Told]:
    """Ask for the log probabilities of prompts and greedy answers, all side by side."""

    async def one(number: int, prompt: str) -> Told:
        body = {"model": "default", "prompt": prompt, "max_tokens": SPOKEN_TOKENS, "temperature": 0, "ignore_eos": True}
        options = {"echo": True, "logprobs": 1, "return_token_ids": True}
        reply = await http.post("/completions", json=body | options, headers={PROGRAM_HEADER: f"spoken-{number}"})
        assert reply.status_code == 200, reply.text
        choice = reply.json()["choices"][0]
        return Told(prompt, choice["token_ids"], choice["logprobs"]["token_logprobs"][1:])

    return await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts)))


def _errors(
    told: Sequence[Told], said: Sequence[Sequence[float]], exact: Sequence[Sequence[float]]
) -> dict[str, float]:
    """Return the mean distance of log probabilities from exact ones, over tokens of prompts and of answers."""
    pairs = zip(said, exact, strict=True)
    distances = [[abs(one - other) for one, other in zip(*pair, strict=True)] for pair in pairs]
    return {
        "prompts": mean(one for far, by in zip(distances, told, strict=True) for one in far[: -len(by.output)]),
        "answers": mean(one for far, by in zip(distances, told, strict=True) for one in far[-len(by.output) :]),
    }


def _too_far(ours: dict[str, float], theirs: dict[str, float]) -> list[str]:
    """Say where the first errors are larger than `AS_NEAR` allows beside the others."""
    return [
        f"{part}: mean error {ours[part]:.4f} beside {theirs[part]:.4f}"
        for part, factor in AS_NEAR.items()
        if ours[part] > factor * theirs[part]
    ]
