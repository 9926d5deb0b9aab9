"""The engine under memory pressure, page size by page size: preempted, swapped and aborted calls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic

import pytest

from tests.gpu.likeness import compare
from tests.gpu.suite import SUITE, report
from tests.integration.bare_engine import (
    BareEngine,
    assert_nothing_is_left,
    bare_engine,
    running_calls,
    under_strain,
)
from tests.integration.completions import COUNTING, PLAIN, STATEFUL, Answer, complete, prompt, undisturbed

pytestmark = pytest.mark.gpu

TOKENS = 48
KINDS = tuple({**options, "return_token_ids": True} for options in (*COUNTING, *[PLAIN] * 6, *STATEFUL))
CALLS, AT_ONCE = 200, 24
PATIENCE_S = 2.0
"""The longest that a client waits who does not wait for the end."""


@dataclass(frozen=True)
class Paged:
    """An engine and its page size, in tokens."""

    engine: BareEngine
    page_size: int


@pytest.fixture(scope="module", params=SUITE.page_sizes, ids=lambda size: f"page-{size}")
def paged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paged]:
    """An engine with overlapped steps, graphs where the device has them, and host memory for all KV."""
    engine_python, model = (request.getfixturevalue(name) for name in ("engine_python", "model"))
    launch = SUITE.launch(engine_python, model, request.param)
    log = tmp_path_factory.mktemp("engine") / "log"
    began = monotonic()
    told = SUITE.variables | {"AUTELLIX_SWAP_CHECK": "1"}
    with under_strain(**told), bare_engine(launch, log, start_limit_s=SUITE.start_limit_s) as engine:
        report(f"page {request.param}: engine ready after {monotonic() - began:.0f} s")
        yield Paged(engine, request.param)


def test_preempted_calls_answer_as_if_undisturbed(paged: Paged) -> None:
    """Calls of every kind, three times too many for the device: each goes on from host memory where it was."""
    engine, page_size = paged.engine, paged.page_size
    prompts = [prompt(number, 6 + number % 3 * 4) for number in range(len(KINDS))]
    before = engine.counts()
    calmly = [{**options, "logprobs": 2} for options in KINDS]

    async def run() -> tuple[list[Answer], list[Answer]]:
        async with engine.client() as http:
            calls = [
                complete(http, text, TOKENS, f"kind-{number}", **options)
                for number, (text, options) in enumerate(zip(prompts, KINDS, strict=True))
            ]
            answers = await asyncio.gather(*calls)
            return answers, await undisturbed(http, prompts, TOKENS, calmly)

    answers, calm = asyncio.run(run())
    found, counts = compare(answers, calm), engine.counts()
    bills = [answer.bill for answer in answers]
    preemptions, recomputed, swapped = (
        sum(getattr(bill, what) for bill in bills) for what in ("preemptions", "recomputed_tokens", "swapped_tokens")
    )
    report(
        f"page {page_size}: {preemptions} preemptions, {swapped} tokens swapped, {recomputed} computed twice; "
        f"{found.tokens} of {sum(bill.output_tokens for bill in bills)} tokens alike, {found.near_ties} near-ties"
    )
    report(f"page {page_size}: {counts['swap']}")
    if SUITE.device == "cuda":
        assert {copies["kernel"] for copies in counts["swap"]["copies"].values()}.isdisjoint({"reference", "engine"})
    assert counts["swap_pages_checked"] > 0
    assert counts["swap_pages_failed"] == 0
    assert found.errors == ()
    assert preemptions >= 20
    most = engine.most_recomputed(page_size)
    assert all(bill.recomputed_tokens <= bill.preemptions * most for bill in bills)
    assert swapped > 500
    assert counts["swapped_out_tokens"] > before["swapped_out_tokens"]
    assert counts["host_locks_refused"] == 0
    if SUITE.device == "cuda":
        assert "cuda graph: True" in engine.log_path.read_text(errors="replace")
    assert_nothing_is_left(engine)


def test_aborted_calls_leave_nothing(paged: Paged) -> None:
    """Half of many clients leave at any moment; the engine itself checks its memory at every step."""
    engine, draw = paged.engine, random.Random(7)
    slots = asyncio.Semaphore(AT_ONCE)

    async def call(number: int) -> bool:
        text, tokens = prompt(1000 + number, draw.randrange(1, 12)), draw.randrange(20, 2 * TOKENS)
        patience_s = draw.choice([None, draw.uniform(0, PATIENCE_S)])
        async with slots, engine.client() as http:
            try:
                async with asyncio.timeout(patience_s):
                    await complete(http, text, tokens, f"leak-{number % 40}", **draw.choice(KINDS))
            except TimeoutError:
                return False
        return True

    async def run() -> int:
        served = await asyncio.gather(*map(call, range(CALLS)))
        async with engine.client() as http:
            while await running_calls(http):
                pass
            await complete(http, prompt(2000), 4, "after")
        return CALLS - sum(served)

    before = engine.counts()["preemptions"]
    aborted = asyncio.run(run())
    preemptions = engine.counts()["preemptions"] - before
    report(f"page {paged.page_size}: {CALLS} calls, {aborted} aborted, {preemptions} preemptions, nothing left")
    assert CALLS / 10 < aborted < CALLS
    assert_nothing_is_left(engine)
