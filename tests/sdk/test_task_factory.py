"""The task factory: tasks are followed on loops that are not wrapped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

import autellix_sdk as autellix
from autellix_sdk._strands import Strand
from autellix_sdk.wire import CallContext
from tests.sdk.conftest import BASE_URL, call_here
from tests.sdk.test_identity import eager


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: Any, clean_client: None) -> Iterator[asyncio.Runner]:
    """Runs coroutines on each kind of event loop, with the client on and the loops left alone."""
    autellix.init(BASE_URL, tasks=False)
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


async def _acall() -> CallContext:
    await asyncio.sleep(0)
    return call_here()


async def _map_reduce() -> list[CallContext]:
    async with autellix.program():
        plan = call_here()
        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(_acall(), name=str(number)) for number in range(2)]
        assert [part.get_name() for part in parts] == ["0", "1"]
        return [plan, *(part.result() for part in parts), await asyncio.to_thread(call_here), call_here()]


def _check(calls: list[CallContext]) -> None:
    plan, left, right, thread, end = calls
    assert len({call.program for call in calls}) == 1
    assert [left.parents, right.parents] == [(plan.call,)] * 2
    assert set(thread.parents or ()) == {left.call, right.call}
    assert end.parents == (thread.call,)


def test_without_it_loops_are_left_alone(runner: asyncio.Runner) -> None:
    """`tasks=False` wraps no `create_task`: tasks are roots, and threads are followed still."""
    now = asyncio.BaseEventLoop.create_task, uvloop.Loop.create_task
    autellix.shutdown()
    assert now == (asyncio.BaseEventLoop.create_task, uvloop.Loop.create_task)
    autellix.init(BASE_URL, tasks=False)
    plan, left, right, thread, end = runner.run(_map_reduce())
    assert len({plan.program, left.program, right.program}) == 3
    assert plan.program == thread.program == end.program


def test_with_it_tasks_are_followed(runner: asyncio.Runner) -> None:
    """As if the loop were wrapped."""
    runner.get_loop().set_task_factory(autellix.task_factory())
    _check(runner.run(_map_reduce()))


def test_it_makes_tasks_as_the_inner_one_does(runner: asyncio.Runner) -> None:
    """With what the loop passes on, such as a context."""
    made = []

    def inner(loop: Any, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        made.append(kwargs)
        return asyncio.Task(coro, loop=loop, **kwargs)

    runner.get_loop().set_task_factory(autellix.task_factory(inner))
    _check(runner.run(_map_reduce()))
    assert len(made) == 3
    assert "context" in made[0]


@pytest.mark.parametrize("switch", [autellix.shutdown, lambda: autellix.init(BASE_URL)], ids=["off", "wrapped"])
def test_it_steps_aside(runner: asyncio.Runner, switch: Callable[[], None], forks: list[Strand | None]) -> None:
    """While the client is off there is nobody to follow; while loops are wrapped nothing is linked twice."""
    switch()
    runner.get_loop().set_task_factory(autellix.task_factory())

    async def main() -> list[CallContext]:
        forks.clear()
        await asyncio.create_task(asyncio.sleep(0))
        assert len(forks) == (autellix.headers() != {})
        return await _map_reduce() if autellix.headers() else []

    if calls := runner.run(main()):
        _check(calls)


@eager
def test_eager_tasks(clean_client: None) -> None:
    """Those that never wait, those that do, and those that start others before their own creation is over."""
    autellix.init(BASE_URL, tasks=False)

    async def quick() -> CallContext:
        return call_here()

    async def nested() -> list[CallContext]:
        inner = await asyncio.gather(quick(), _acall())
        return [*inner, call_here()]

    async def main() -> list[CallContext]:
        async with autellix.program():
            first = call_here()
            second = await asyncio.create_task(quick())
            return [first, second, *(await asyncio.create_task(nested())), call_here()]

    with asyncio.Runner() as runner:  # uvloop and the eager factory of some versions of Python do not get along
        factory = autellix.task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        runner.get_loop().set_task_factory(factory)
        calls = runner.run(main())
    assert len({call.program for call in calls}) == 1
    assert [call.parents for call in calls[1:]] == [(call.call,) for call in calls[:-1]]
