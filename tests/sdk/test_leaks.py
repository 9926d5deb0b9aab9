"""Nothing is left behind by 300,000 tasks, nor by programs and jobs that come and go.

Run with ``pytest -m slow tests/sdk/test_leaks.py``. What is measured is what the client adds to a process that does
the same over and over: objects that the collector knows, blocks allocated by Python, and memory of the process.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

import autellix_sdk as autellix
from autellix_sdk import _lifecycle, _programs, _strands
from autellix_sdk._runtime import runtime
from tests.sdk.conftest import BASE_URL, WAIT_S, Backend, call_here
from tests.sdk.test_identity import eager

TASKS = 300_000
WARM_UP = 20

pytestmark = pytest.mark.slow


class Growth:
    """What a process has more of than when it was warm.

    Attributes:
        objects: containers that the garbage collector tracks.
        blocks: blocks of memory allocated by Python.
        resident_bytes: memory that the process occupies.
    """

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> tuple[int, int, int]:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return len(gc.get_objects()), sys.getallocatedblocks(), pages * 4096

    def check(self) -> None:
        """Fail where anything grew with the number of tasks."""
        objects, blocks, resident_bytes = (now - before for now, before in zip(self._now(), self._before, strict=True))
        assert objects < 500, "one for every thousandth task would be 300"
        assert blocks < 8000, "the interpreter's own cache of names may take half of that"
        assert resident_bytes < 30_000_000


@pytest.fixture(autouse=True)
def offline(clean_client: None) -> None:
    """The client is on; no call leaves the process."""
    autellix.init(BASE_URL)


async def _nothing() -> None:
    return None


async def _waits() -> None:
    await asyncio.sleep(0)


async def _calls() -> None:
    await asyncio.sleep(0)
    call_here()


async def _nested() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_nested_again())
        group.create_task(_waits())
    await asyncio.wait_for(_waits(), WAIT_S)


async def _nested_again() -> None:
    await asyncio.gather(_nothing(), _waits())


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    return loop


@dataclass(frozen=True)
class Load:
    """So many tasks, so many at a time."""

    work: Callable[[], Coroutine[Any, Any, None]]
    tasks_each: int = 1
    width: int = 1000
    tasks: int = TASKS

    async def run(self) -> None:
        """Fail where something grows."""
        for batch in range(WARM_UP + self.tasks // self.width // self.tasks_each):
            if batch == WARM_UP:
                growth = Growth()
            await asyncio.gather(*(self.work() for _ in range(self.width)))
        growth.check()


@pytest.mark.parametrize(
    "make_loop",
    [
        pytest.param(asyncio.new_event_loop, id="asyncio"),
        pytest.param(uvloop.new_event_loop, id="uvloop"),
        pytest.param(_eager_loop, id="eager", marks=eager),
    ],
)
@pytest.mark.parametrize(
    "load",
    [
        pytest.param(Load(_waits), id="plain"),
        pytest.param(Load(_nested, tasks_each=6), id="nested"),
        pytest.param(Load(_calls, width=20, tasks=TASKS // 10), id="calling"),
    ],
)
@pytest.mark.parametrize("in_scope", [True, False])
def test_tasks(make_loop: Callable[[], Any], load: Load, in_scope: bool) -> None:
    """Plain and nested ones, and ones that call, in one long program with a scope and without."""

    async def main() -> None:
        async with autellix.program() if in_scope else nullcontext():
            await load.run()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())


def test_a_chain_of_tasks_each_started_by_the_one_before() -> None:
    """A poller that starts itself anew keeps no history."""

    async def main() -> None:
        done, growth = asyncio.Event(), None

        async def link(number: int) -> None:
            nonlocal growth
            if number == 1000:
                growth = Growth()
            if number == TASKS:
                done.set()
                return
            if number % 100 == 0:
                call_here()
            latest[0] = asyncio.create_task(link(number + 1))

        latest: list[Any] = [None]
        async with autellix.program():
            await asyncio.create_task(link(0))
            await done.wait()
            growth.check()  # type: ignore[attr-defined]

    asyncio.run(main())


def test_jobs_of_a_pool_and_threads() -> None:
    """The worker threads live on, the jobs do not."""

    def work() -> None:
        with autellix.program():
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join(WAIT_S)

    with autellix.program(), ThreadPoolExecutor(4) as pool:
        for batch in range(50):
            if batch == 10:
                growth = Growth()
            list(pool.map(lambda _: None, range(1000)))
            list(pool.map(lambda _: work(), range(50)))
        growth.check()


def test_programs_that_end(backend: Backend) -> None:
    """With their calls, ends and bills; those of streams that were dropped too."""
    before = set(_programs._living)
    autellix.init(backend.base_url)
    reporter = runtime.reporter
    assert reporter is not None

    def work(number: int) -> None:
        with autellix.program(f"number {number}") as p:
            client.post("/completions", json={}).raise_for_status()
            client.send(client.build_request("POST", "/completions", json={"stream": True}), stream=True).close()
            p.bill()
        backend.calls.clear()
        backend.ends.clear()

    with httpx.Client(base_url=backend.base_url) as client:
        for number in range(100):
            work(number)
        growth = Growth()
        for number in range(1000):
            work(number)
        thread = reporter._thread
        autellix.shutdown()
        if thread is not None:
            thread.join(WAIT_S)
        growth.check()
    gc.collect()
    assert set(_programs._living) <= before


def test_implicit_programs_that_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each root task is one; they are gone a minute after their call, and the odd task is forgotten."""
    monkeypatch.setattr(_lifecycle, "IMPLICIT_IDLE_S", 0.0)
    monkeypatch.setattr(_programs, "IMPLICIT_IDLE_S", 0.0)

    async def main() -> None:
        for batch in range(60):
            if batch == 10:
                growth = Growth()
            await asyncio.gather(*(asyncio.Task(_calls()) for _ in range(100)))
            reporter = _programs.runtime.reporter
            assert reporter is not None
            reporter._look_s = 0.0
            reporter._look()
        autellix.shutdown()
        growth.check()

    asyncio.run(main())
    assert len(_strands._of_odd_tasks) == 0


def test_generators_that_are_left_open() -> None:
    """Dropped in the middle, in scope or out of it, closed by the collector or by the loop."""

    @autellix.program()
    async def items() -> AsyncIterator[int]:
        call_here()
        yield 1
        yield 2

    async def main() -> None:
        for batch in range(60):
            if batch == 10:
                growth = Growth()
            for _ in range(100):
                async for _item in items():
                    break
            await asyncio.sleep(0)
        await asyncio.get_running_loop().shutdown_asyncgens()
        autellix.shutdown()
        growth.check()

    asyncio.run(main())
