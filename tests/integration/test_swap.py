"""KV of preempted calls in the real engine: it leaves the device for host memory, and comes back as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
from tests.integration.completions import Answer, complete, prompt, undisturbed
from tests.integration.host_pool import faulty, refusals, round_trips

pytestmark = pytest.mark.engine

PAGE = 4
ENGINE = (
    *("--max-running-requests", "4", "--chunked-prefill-size", "128"),
    # A third of the KV that the calls of one test have together.
    *("--max-total-tokens", "800", "--page-size", str(PAGE)),
)
TOKENS = 48


@pytest.fixture(scope="module")
def swapping(
    engine_python: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BareEngine]:
    """An engine that preempts as often as it can, with host memory for all there is, with either of its event loops.

    Every page that comes back is checked.
    """
    launch = launch_of(engine_python, *ENGINE, steps_between_plans=2, host_kv_gb=1)
    told = LOOPS[request.param] | damage_when_told(tmp_path_factory) | {"AUTELLIX_SWAP_CHECK": "1"}
    with under_strain(**told), bare_engine(launch, tmp_path_factory.mktemp("engine") / "log") as engine:
        yield engine


@pytest.fixture(scope="module")
def short_of_host(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareEngine]:
    """The same, but its host pool, asked for by SGLang's own flags, holds two or three calls."""
    pool = ("--enable-hierarchical-cache", "--hicache-ratio", "0.6")
    launch = launch_of(engine_python, *ENGINE, *pool, steps_between_plans=2)
    with under_strain(), bare_engine(launch, tmp_path_factory.mktemp("engine") / "log") as engine:
        yield engine


@pytest.fixture(scope="module")
def unchecked(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareEngine]:
    """An engine whose host memory can be told to damage KV, and which checks none of it."""
    launch = launch_of(engine_python, *ENGINE, steps_between_plans=2, host_kv_gb=1)
    with (
        under_strain(**damage_when_told(tmp_path_factory), AUTELLIX_SWAP_CHECK="0"),
        bare_engine(launch, tmp_path_factory.mktemp("engine") / "log") as engine,
    ):
        yield engine


@pytest.fixture
def damage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Host memory damages KV while a test runs."""
    switch = damage_switch(tmp_path_factory)
    switch.touch()
    yield
    switch.unlink()


def damage_switch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that is there while host memory damages KV."""
    return tmp_path_factory.getbasetemp() / "bad-memory"


def damage_when_told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of an engine whose host memory damages KV while `damage_switch` is there."""
    package = "tests.integration.bad_memory"
    return {"SGLANG_EXTERNAL_MODEL_PACKAGE": package, "BAD_MEMORY": str(damage_switch(tmp_path_factory))}


both_loops = pytest.mark.parametrize(
    "swapping", ["overlap", pytest.param("normal", marks=pytest.mark.slow)], indirect=True
)
overlap_loop = pytest.mark.parametrize("swapping", ["overlap"], indirect=True)


def crowd(engine: BareEngine, first: int, count: int, **options: Any) -> tuple[list[Answer], list[Answer]]:
    """Answers to calls that are too many for the device, and those of the same calls, undisturbed."""
    prompts = [prompt(first + number, 8 + number % 3 * 4) for number in range(count)]

    async def run() -> tuple[list[Answer], list[Answer]]:
        async with engine.client() as http:
            calls = [complete(http, text, TOKENS, f"swap-{first}-{n}", **options) for n, text in enumerate(prompts)]
            answers = await asyncio.gather(*calls)
            return answers, await undisturbed(http, prompts, TOKENS, [options] * count)

    return asyncio.run(run())


def texts(answers: Sequence[Answer]) -> list[str]:
    """The completions alone."""
    return [answer.text for answer in answers]


@both_loops
def test_the_engine_runs_the_loop_it_was_told_to(swapping: BareEngine, request: pytest.FixtureRequest) -> None:
    """Steps overlap only for who asks: a CPU would hold each token back."""
    assert swapping.info()["disable_overlap_schedule"] is (request.node.callspec.params["swapping"] == "normal")


@both_loops
def test_preempted_calls_go_on_from_host_memory(swapping: BareEngine) -> None:
    """Ten calls with room for a third of them: token for token as undisturbed, and hardly anything computed twice.

    Nothing but what does not fill a page, and what is sooner computed than loaded.
    """
    before = swapping.counts()
    answers, calm = crowd(swapping, 0, 10)
    assert texts(answers) == texts(calm)
    bills = [answer.bill for answer in answers]
    preemptions = sum(bill.preemptions for bill in bills)
    assert preemptions >= 10
    most = swapping.most_recomputed(PAGE)
    assert all(bill.recomputed_tokens <= bill.preemptions * most for bill in bills)
    assert sum(bill.swapped_tokens for bill in bills) > 500
    counts = swapping.counts()
    assert counts["host_locks_refused"] == 0
    assert counts["swap_pages_checked"] > 100
    assert counts["swap_pages_failed"] == 0
    assert counts["swapped_out_tokens"] > before["swapped_out_tokens"]
    assert counts["swapped_in_tokens"] - before["swapped_in_tokens"] >= sum(bill.swapped_tokens for bill in bills)
    assert_nothing_is_left(swapping)


@both_loops
def test_engine_says_how_it_copies_and_what_it_loads(swapping: BareEngine) -> None:
    """Kernels, and rates that were measured: a CPU loads far sooner than it computes."""
    swap = swapping.counts()["swap"]
    assert {way: copies["kernel"] for way, copies in swap["copies"].items()} == {"out": "reference", "in": "reference"}
    assert swap["check_share"] == 1
    assert swap["prefill_tokens_s"] > 0
    assert 0 < swap["load"]["token_s"] < 1 / swap["prefill_tokens_s"]
    assert 1 <= swap["load_threshold_tokens"] < 100
    assert "KV between device and host memory: {'copies'" in swapping.log_path.read_text()


@pytest.mark.usefixtures("damage")
@overlap_loop
def test_kv_that_was_damaged_in_host_memory_is_computed_again(swapping: BareEngine) -> None:
    """Whoever preempts whom, all answers are those of undisturbed calls; what was found is counted and logged."""
    before = swapping.counts()
    answers, calm = crowd(swapping, 400, 6, max_tokens=32)
    assert texts(answers) == texts(calm)
    after = swapping.counts()
    checked, failed = (after[name] - before[name] for name in ("swap_pages_checked", "swap_pages_failed"))
    assert checked > failed > 0
    assert "of KV changed in host memory" in swapping.log_path.read_text()
    assert_nothing_is_left(swapping)


@pytest.mark.slow
@pytest.mark.usefixtures("damage")
def test_damage_that_is_not_looked_for_shows_in_answers(unchecked: BareEngine) -> None:
    """Without the check the same damage is used, and some answers are others."""
    answers, calm = crowd(unchecked, 400, 6, max_tokens=32)
    assert texts(answers) != texts(calm)
    counts = unchecked.counts()
    assert (counts["swap_pages_checked"], counts["swap_pages_failed"]) == (0, 0)


@pytest.mark.slow
@both_loops
def test_calls_that_the_engine_retracts_go_on_from_host_memory(swapping: BareEngine) -> None:
    """Outputs of which the engine hopes that they end early outgrow the device, and it makes calls leave by itself."""
    before = swapping.counts()["retractions"]
    answers, calm = crowd(swapping, 100, 4, ignore_eos=False, max_tokens=100)
    assert texts(answers) == texts(calm)
    assert swapping.counts()["retractions"] > before
    most = swapping.most_recomputed(PAGE)
    assert all(answer.bill.recomputed_tokens <= answer.bill.preemptions * most for answer in answers)
    assert_nothing_is_left(swapping)


@pytest.mark.slow
@overlap_loop
def test_calls_whose_clients_leave_hold_no_host_memory(swapping: BareEngine) -> None:
    """They are gone from the queue without a word to us: the next scheduling pass finds out."""

    async def run() -> None:
        async with swapping.client() as http:
            calls = [
                asyncio.create_task(complete(http, prompt(200 + number, 8), 150, f"left-{number}"))
                for number in range(10)
            ]
            while not swapping.counts()["host_locks"]:
                await complete(http, prompt(300), 4, "clock")
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            while await running_calls(http):
                pass
            await complete(http, prompt(310), 4, "after")

    asyncio.run(run())
    assert_nothing_is_left(swapping)


@pytest.mark.slow
def test_calls_beyond_the_host_budget_compute_again(short_of_host: BareEngine) -> None:
    """Those that are last in line lose their locks first; all answers are right, whoever lost what."""
    answers, calm = crowd(short_of_host, 0, 10)
    assert texts(answers) == texts(calm)
    counts = short_of_host.counts()
    assert counts["host_locks_refused"] > 0
    assert counts["swapped_in_tokens"] > 0
    assert sum(answer.bill.recomputed_tokens for answer in answers) > 0
    assert_nothing_is_left(short_of_host)


def test_kv_is_bit_equal_after_a_round_trip(engine_python: Path) -> None:
    """Every layout, page sizes 1 and 16, one and several pages, in every layer; nothing else is touched."""
    cases = round_trips(engine_python, "cpu")
    assert len({(case["page_size"], case["layout"], case["dtype"], case["tokens"]) for case in cases}) == 2 * 3 * 2 * 3
    assert faulty(cases) == []


def test_what_the_pool_cannot_do_is_refused_before_it_takes_memory(engine_python: Path) -> None:
    """A layout of another kind, and SGLang's own copies; the sentence has the remedy."""
    layouts = "layer_first, page_first, page_first_direct"
    assert refusals(engine_python) == [
        f"autellix: --hicache-mem-layout is page_head: on a CPU choose one of: {layouts}",
        "autellix: AUTELLIX_SWAP_KERNEL is engine: SGLang has no copies of its own for a CPU; unset it",
    ]
