"""Many calls at once on the real engine, under forced preemption, with a device that holds a part of them only."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.bare_engine import (
    LOOPS,
    BareEngine,
    assert_nothing_is_left,
    bare_engine,
    launch_of,
    running_calls,
    under_strain,
)
from tests.integration.completions import COUNTING, PLAIN, STATEFUL, Answer, complete, prompt, undisturbed

pytestmark = [pytest.mark.engine, pytest.mark.slow]

ENGINE = ("--max-running-requests", "6", "--chunked-prefill-size", "64")
CALLS = 32
TOKENS = 40
ABORTED = 500
AT_ONCE = 24


@pytest.fixture(scope="module", params=LOOPS)
def crowded(
    engine_python: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BareEngine]:
    """An engine with little room on the device and enough in host memory, with either of its event loops."""
    room = ("--max-total-tokens", "900")
    launch = launch_of(engine_python, *ENGINE, *room, steps_between_plans=4, host_kv_gb=1)
    with under_strain(**LOOPS[request.param]), bare_engine(launch, tmp_path_factory.mktemp("engine") / "log") as engine:
        yield engine


def test_calls_under_forced_preemption_answer_token_for_token_as_if_undisturbed(crowded: BareEngine) -> None:
    """Plain ones, with penalties, with minimum lengths, stop strings, grammars and log probabilities."""
    special = [*STATEFUL, *COUNTING]
    every_options = [*[PLAIN] * (CALLS - 2 * len(special)), *special, *special]
    prompts = [prompt(1000 + number, 2 + number % 5 * 3) for number in range(CALLS)]

    async def run() -> tuple[list[Answer], list[Answer]]:
        async with crowded.client() as http:
            calls = [
                complete(http, text, TOKENS, f"crowd-{number}", **options)
                for number, (text, options) in enumerate(zip(prompts, every_options, strict=True))
            ]
            answers = await asyncio.gather(*calls)
            return answers, await undisturbed(http, prompts, TOKENS, every_options)

    answers, calm = asyncio.run(run())
    for answer, expected, options in zip(answers, calm, every_options, strict=True):
        assert (answer.text, options) == (expected.text, options)
        assert answer.logprobs == pytest.approx(expected.logprobs, abs=1e-3)
    bills = [answer.bill for answer in answers]
    preemptions = sum(bill.preemptions for bill in bills)
    assert preemptions >= 2 * CALLS
    most = crowded.most_recomputed(page_size=1)
    assert all(bill.recomputed_tokens <= bill.preemptions * most for bill in bills)
    assert sum(bill.swapped_tokens for bill in bills) > 1000
    assert_nothing_is_left(crowded)


def test_calls_with_random_aborts_leave_nothing(crowded: BareEngine) -> None:
    """Clients leave while calls wait, run, are computed in chunks or lie in host memory; the engine checks too."""
    rng = random.Random(1)

    async def one(http: httpx.AsyncClient, number: int, turn: asyncio.Semaphore) -> bool:
        text, tokens = prompt(2000 + number, rng.randrange(1, 8)), rng.randrange(1, 20)
        patience_s = rng.expovariate(0.3) if rng.random() < 0.6 else None
        async with turn:
            try:
                await asyncio.wait_for(complete(http, text, tokens, f"left-{number % 60}"), patience_s)
            except TimeoutError:
                return True
        return False

    async def run() -> int:
        turn = asyncio.Semaphore(AT_ONCE)
        async with crowded.client() as http:
            aborted = sum(await asyncio.gather(*(one(http, number, turn) for number in range(ABORTED))))
            while await running_calls(http):
                pass
            # Takes nearly all of the device, and would wait for ever for what is still locked.
            await complete(http, prompt(3000, 55), 60, "after")
        return aborted

    before = crowded.counts()
    assert 50 < asyncio.run(run()) < ABORTED - 50
    assert crowded.counts()["preemptions"] > before["preemptions"]
    assert_nothing_is_left(crowded)


def test_kv_of_a_program_stays_while_it_runs_its_tool(engine_python: Path, tmp_path: Path) -> None:
    """Calls of a worse program would need the room, and take it when nothing is held."""
    cached = {}
    for hold_s in (0.0, 60.0):
        launch = launch_of(engine_python, *ENGINE, "--max-total-tokens", "600", steps_between_plans=4, hold_s=hold_s)
        with bare_engine(launch, tmp_path / f"log-{hold_s}") as engine:
            cached[hold_s] = asyncio.run(history_found(engine))
    assert cached[0.0] < 40
    assert cached[60.0] > 180


async def history_found(engine: BareEngine) -> int:
    """Return how many tokens of a program's first call its second one finds, after a heavy program used the device."""
    async with engine.client() as http:
        await complete(http, prompt(4000), 150, "heavy")
        text = prompt(4001, 16)
        first = await complete(http, text, 8, "light")
        calls = [complete(http, prompt(4010 + number, 14), 30, "heavy") for number in range(4)]
        await asyncio.gather(*calls)
        second = await complete(http, text + first.text + " And so on.", 4, "light")
        return second.bill.cached_tokens
