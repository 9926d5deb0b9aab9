"""The planner in the real engine: running calls make room for better ones and go on as if nothing had happened."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from autellix_sdk.wire import PROGRAM_HEADER
from tests.integration.bare_engine import LOOPS, under_strain
from tests.integration.completions import COUNTING, MINIMUM, PLAIN, STATEFUL, Answer, complete, prompt, undisturbed
from tests.integration.server import Server, serve

pytestmark = pytest.mark.engine

SLOTS = 4
CHUNK = 64
ENGINE = (
    # So that the size of a batch flips no near-tie.
    *("--dtype", "float32", "--max-running-requests", str(SLOTS)),
    # Long prompts come in parts, and four long calls are more than the memory holds.
    *("--chunked-prefill-size", str(CHUNK), "--max-total-tokens", "1000"),
)
# The levels end after a few steps each, and every other step may bring a change. Nothing is held for later tests.
PLANS = ("--policy", "plas", "--first-bound-s", "0.1", "--steps-between-plans", "2", "--hold-s", "0")
NORMAL = pytest.param("normal", marks=pytest.mark.slow)
both_loops = pytest.mark.parametrize("preempting", ["overlap", NORMAL], indirect=True)
overlap_loop = pytest.mark.parametrize("preempting", ["overlap"], indirect=True)


@pytest.fixture(scope="module")
def preempting(engine_python: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that preempts as often as it can, with either of the engine's event loops."""
    with under_strain(**LOOPS[request.param]), serve(*PLANS, "--", *ENGINE) as running:
        yield running


@both_loops
def test_preempted_calls_answer_token_for_token_as_if_undisturbed(preempting: Server) -> None:
    """Fifteen calls share four slots; most are preempted again and again, and compute nothing twice."""
    # Who comes first runs first, and makes room for the others.
    every_options = [*COUNTING, *[PLAIN] * 6, *STATEFUL]
    prompts = [prompt(number, 1 + number % 3 * 2) for number in range(len(every_options))]
    counting = len(COUNTING)

    async def run() -> tuple[list[Answer], list[Answer], Answer]:
        async with httpx.AsyncClient(base_url=preempting.base_url, timeout=240) as http:
            calls = [
                complete(http, text, 32, f"program-{number}", **options)
                for number, (text, options) in enumerate(zip(prompts, every_options, strict=True))
            ]
            answers = await asyncio.gather(*calls)
            calm = await undisturbed(http, prompts, 32, every_options)
            text = prompts[COUNTING.index(MINIMUM)]
            return answers, calm, await complete(http, text, 32, "early", **MINIMUM | {"min_tokens": 0})

    answers, calm, early = asyncio.run(run())
    for answer, expected, options in zip(answers, calm, every_options, strict=True):
        assert (answer.text, options) == (expected.text, options)
        assert answer.logprobs == pytest.approx(expected.logprobs, abs=1e-3)
    bills = [answer.bill for answer in answers]
    preemptions = sum(bill.preemptions for bill in bills)
    assert preemptions >= 20
    assert all(bill.preemptions > 0 for bill in bills[:counting])
    assert all(bill.time.queued_us["retraction"] > 0 for bill in bills if bill.preemptions)
    assert sum(bill.recomputed_tokens for bill in bills) <= preemptions
    assert all(bill.output_tokens == 32 for bill in bills[counting : counting + 6])
    assert early.bill.output_tokens < 20 <= min(bill.output_tokens for bill in bills[:counting])


@overlap_loop
def test_fresh_program_overtakes_running_ones(preempting: Server) -> None:
    """Every slot is taken by calls that have run for long: a short call of a new program runs at once all the same."""

    async def run() -> tuple[list[Answer], Answer, int]:
        async with httpx.AsyncClient(base_url=preempting.base_url, timeout=240) as http:
            heavy = [
                asyncio.create_task(complete(http, prompt(100 + number), 120, f"heavy-{number}"))
                for number in range(SLOTS)
            ]
            await until_all_sink(http, preempting)
            fresh = await complete(http, prompt(200), 4, "fresh")
            still_running = sum(not task.done() for task in heavy)
            return await asyncio.gather(*heavy), fresh, still_running

    heavy, fresh, still_running = asyncio.run(run())
    assert still_running == SLOTS
    assert sum(answer.bill.preemptions for answer in heavy) >= 1
    assert fresh.bill.preemptions == 0
    waited_us = fresh.bill.time.queued_us.get("admission", 0)
    assert waited_us < min(answer.bill.time.decode_us for answer in heavy) / 10


async def until_all_sink(http: httpx.AsyncClient, server: Server) -> None:
    """Wait until every running call has been served for a while: calls of nobody in particular tell the time."""
    for number in range(3):
        await complete(http, prompt(300 + number), 8, f"clock-{number}")


def prefills(server: Server) -> list[int]:
    """Tokens of every prefill step so far."""
    return [int(found) for found in re.findall(r"Prefill batch.* #new-token: (\d+)", server.engine_log())]


@overlap_loop
def test_short_call_starts_within_two_chunks_of_a_long_prompt(preempting: Server) -> None:
    """A program that has run for long sends a prompt of ten chunks; a fresh call does not wait for its end."""
    words = "one two three four five six seven eight nine ten"

    async def run() -> tuple[Answer, Answer, int]:
        async with httpx.AsyncClient(base_url=preempting.base_url, timeout=240) as http:
            await complete(http, prompt(800), 40, "long")
            before = len(prefills(preempting))
            long = asyncio.create_task(complete(http, " ".join([words] * 64), 4, "long"))
            while len(prefills(preempting)) < before + 2:
                await asyncio.sleep(0.005)
            arrived = len(prefills(preempting))
            fresh = await complete(http, "a b c d e f g h i j k l m n o p", 1, "fresh-16")
            return await long, fresh, arrived

    long, fresh, arrived = asyncio.run(run())
    assert (fresh.bill.prompt_tokens, long.bill.prompt_tokens // CHUNK) == (16, 10)
    steps = prefills(preempting)[arrived:]
    # Two, and one that may begin while the call is on its way to the engine.
    assert steps.index(16) <= 3
    assert steps.count(CHUNK) >= 5
    assert long.bill.preemptions >= 1
    assert long.bill.recomputed_tokens == 0


RETRACTED = "KV cache pool is full. Retract requests"
"""What the engine prints when memory runs out."""


@dataclass(frozen=True)
class Squeeze:
    """Calls that are too large for the memory together.

    Attributes:
        calls: how many.
        sentences: length of each prompt.
        tokens: length of each answer.
        options: outputs of fixed length are reserved for in full; of others the engine hopes that they end early.
    """

    calls: int
    sentences: int
    tokens: int
    options: dict[str, object]


BY_PLAN = Squeeze(calls=3, sentences=28, tokens=40, options={})
BY_ENGINE = Squeeze(
    calls=4,
    sentences=12,
    tokens=120,
    options={"ignore_eos": False, "min_tokens": 120, "frequency_penalty": 0.2, "repetition_penalty": 1.1},
)


@overlap_loop
@pytest.mark.parametrize(
    "squeeze", [pytest.param(BY_PLAN, marks=pytest.mark.slow), BY_ENGINE], ids=["by plan", "by engine"]
)
def test_calls_that_outgrow_the_memory_go_on_where_they_were(preempting: Server, squeeze: Squeeze) -> None:
    """Some leave by a plan since another would not fit, or because the engine ran out of memory: none is spoilt."""
    prompts = [prompt(400 + 100 * squeeze.calls + number, squeeze.sentences) for number in range(squeeze.calls)]
    retractions = preempting.engine_log().count(RETRACTED)

    async def run() -> tuple[list[Answer], list[Answer]]:
        async with httpx.AsyncClient(base_url=preempting.base_url, timeout=240) as http:
            calls = [complete(http, text, squeeze.tokens, f"large-{text[6:9]}", **squeeze.options) for text in prompts]
            answers = await asyncio.gather(*calls)
            every_options = [squeeze.options] * squeeze.calls
            return answers, await undisturbed(http, prompts, squeeze.tokens, every_options)

    answers, calm = asyncio.run(run())
    assert [answer.text for answer in answers] == [answer.text for answer in calm]
    bills = [answer.bill for answer in answers]
    assert sum(bill.preemptions for bill in bills) > 0
    if squeeze is BY_ENGINE:
        assert preempting.engine_log().count(RETRACTED) > retractions


@overlap_loop
def test_prompt_that_can_never_fit_is_refused_and_holds_up_nobody(preempting: Server) -> None:
    """The engine's own sentence comes back; the largest prompt that fits is served, and so is who comes behind."""

    async def run() -> tuple[httpx.Response, list[Answer]]:
        async with httpx.AsyncClient(base_url=preempting.base_url, timeout=240) as http:
            running = [asyncio.create_task(complete(http, prompt(900 + n), 40, f"beside-{n}")) for n in range(SLOTS)]
            await until_all_sink(http, preempting)
            body = {"model": "default", "prompt": [100] * 2000, "max_tokens": 8}
            refused = await http.post("/completions", json=body, headers={PROGRAM_HEADER: "never"})
            found = re.search(r"maximum allowed length \((\d+) tokens\)", refused.text)
            assert found, refused.text
            body |= {"prompt": [100] * (int(found[1]) - 1), "max_tokens": 1}
            largest = asyncio.create_task(http.post("/completions", json=body, headers={PROGRAM_HEADER: "largest"}))
            answers = [await complete(http, prompt(920), 4, "behind"), *await asyncio.gather(*running)]
            assert (await largest).status_code == 200
            return refused, answers

    refused, answers = asyncio.run(run())
    assert refused.status_code == 400
    assert "Input length (2000 tokens) exceeds" in refused.text
    assert [answer.bill.output_tokens for answer in answers] == [4, *[40] * SLOTS]


@pytest.mark.slow
@overlap_loop
def test_calls_whose_clients_leave_are_gone(preempting: Server) -> None:
    """Waiting, running or preempted: nothing of them stays, which the engine itself checks, and others are served."""

    async def run() -> Answer:
        async with httpx.AsyncClient(base_url=preempting.base_url, timeout=240) as http:
            calls = [
                asyncio.create_task(complete(http, prompt(700 + number), 100, f"left-{number}")) for number in range(12)
            ]
            await until_all_sink(http, preempting)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            return await complete(http, prompt(720), 8, "after")

    assert asyncio.run(run()).bill.output_tokens == 8
    rows = httpx.get(f"{preempting.url}/autellix/v1/programs").json()["programs"]
    assert sum(row["calls_active"] for row in rows) == 0
    assert preempting.process.poll() is None
