"""The planner on two ranks of the real engine: both decide and swap alike, however their clocks run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.integration.bare_engine import (
    LOOPS,
    BareEngine,
    assert_nothing_is_left,
    bare_engine,
    launch_of,
    under_strain,
)
from tests.integration.completions import PERSON, Answer, complete, prompt, undisturbed
from tests.integration.random_llama import TINY, random_llama
from tests.integration.server import Server, serve
from tests.integration.test_preemption import ENGINE, PLANS

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# What one rank decides and the other does not ends the engine.
CHECKED = {"SGLANG_ENABLE_RANK_CONSENSUS_CHECKER": "1"}


@pytest.fixture(scope="module")
def model(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can be split in two."""
    return random_llama(engine_python, tmp_path_factory.mktemp("tiny"), TINY)


@pytest.fixture(scope="module")
def two_ranks(model: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that preempts as often as it can, on two ranks, with either of the engine's event loops."""
    engine = (*ENGINE, "--tp", "2")
    plans = (*PLANS, "--first-bound-s", "0.02")
    with (
        under_strain(**CHECKED, **LOOPS[request.param]),
        serve("--model", str(model), *plans, "--", *engine) as running,
    ):
        yield running


@pytest.fixture
def short_of_host(engine_python: Path, model: Path, tmp_path: Path) -> Iterator[BareEngine]:
    """An engine that preempts as often as it can, on two ranks, and whose host pool holds two or three calls."""
    pool = ("--enable-hierarchical-cache", "--hicache-ratio", "0.6")
    launch = launch_of(engine_python, *ENGINE, *pool, "--tp", "2", first_bound_s=0.02, steps_between_plans=2)
    with under_strain(**CHECKED), bare_engine(replace(launch, model=str(model)), tmp_path / "log") as engine:
        yield engine


both_loops = pytest.mark.parametrize("two_ranks", LOOPS, indirect=True)


@both_loops
def test_ranks_preempt_alike_and_every_answer_is_as_if_undisturbed(two_ranks: Server) -> None:
    """Twenty-four calls share four slots, and come while others run; the engine checks that its ranks agree."""
    every_options: list[dict[str, object]] = [{}, {}, {"logprobs": 2}, {"json_schema": PERSON}] * 6
    prompts = [prompt(number, 1 + number % 5 * 3) for number in range(len(every_options))]

    async def run() -> tuple[list[Answer], list[Answer]]:
        async with httpx.AsyncClient(base_url=two_ranks.base_url, timeout=120) as http:

            async def turns(first: int) -> list[Answer]:
                """Calls of one program, one after the other."""
                return [
                    await complete(http, prompts[number], 40, f"program-{first}", **every_options[number])
                    for number in range(first, len(prompts), 12)
                ]

            programs = await asyncio.gather(*map(turns, range(12)))
            answers = [answer for turn in zip(*programs, strict=True) for answer in turn]
            return answers, await undisturbed(http, prompts, 40, every_options)

    answers, calm = asyncio.run(run())
    assert [answer.text for answer in answers] == [answer.text for answer in calm]
    assert len({answer.text for answer in answers}) > len(answers) / 2
    bills = [answer.bill for answer in answers]
    assert sum(bill.preemptions for bill in bills) >= 20
    assert "Rank consensus checker is enabled" in two_ranks.engine_log()


@both_loops
def test_ranks_stay_together_when_memory_runs_out_and_clients_leave(two_ranks: Server) -> None:
    """Four calls outgrow the memory; then half of eight leave, whether they run, wait or come in chunks."""
    prompts = [prompt(100 + number, 11 + number // 4) for number in range(12)]
    early: dict[str, object] = {"ignore_eos": False}

    async def run() -> tuple[list[Answer], list[Answer]]:
        async with httpx.AsyncClient(base_url=two_ranks.base_url, timeout=120) as http:

            def start(texts: list[str]) -> list[asyncio.Task[Answer]]:
                return [asyncio.create_task(complete(http, text, 130, f"large-{text[6:9]}", **early)) for text in texts]

            outgrown = await asyncio.gather(*start(prompts[:4]))
            calls = start(prompts[4:])
            for leaving in calls[1::2]:
                await complete(http, prompt(200), 6, "clock")
                leaving.cancel()
            stayed = await asyncio.gather(*calls[::2])
            await asyncio.gather(*calls, return_exceptions=True)
            whole = [*prompts[:4], *prompts[4::2]]
            return [*outgrown, *stayed], await undisturbed(http, whole, 130, [early] * len(whole))

    answers, calm = asyncio.run(run())
    assert [answer.text for answer in answers] == [answer.text for answer in calm]
    assert "KV cache pool is full. Retract requests" in two_ranks.engine_log()


def test_ranks_swap_alike_and_every_answer_is_as_if_undisturbed(short_of_host: BareEngine) -> None:
    """Twelve calls outgrow device and host: some go on from host memory, others lose their place there for a while."""
    prompts = [prompt(300 + number, 8 + number % 3 * 4) for number in range(12)]

    async def run() -> tuple[list[Answer], list[Answer]]:
        async with short_of_host.client() as http:
            calls = [complete(http, text, 48, f"swap-{number}") for number, text in enumerate(prompts)]
            return await asyncio.gather(*calls), await undisturbed(http, prompts, 48, [{}] * 12)

    answers, calm = asyncio.run(run())
    assert [answer.text for answer in answers] == [answer.text for answer in calm]
    counts = short_of_host.counts()
    assert min(counts[what] for what in ("swapped_out_tokens", "swapped_in_tokens", "host_locks_refused")) > 0
    assert sum(answer.bill.swapped_tokens for answer in answers) > 500
    assert_nothing_is_left(short_of_host)
