"""Tasks made past the loop: LangGraph calls asyncio's eager factory itself, anyio what that makes its tasks with."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio._backends import _asyncio as backend

import autellix_sdk as autellix
from autellix_sdk._strands import Strand
from autellix_sdk.wire import CallContext
from tests.sdk.conftest import call_here

IS_EAGER = sys.version_info >= (3, 12)
"""Before Python 3.12 a factory of the same shape, whose tasks are as lazy as ever, stands in for asyncio's."""

Factory = Callable[..., asyncio.Task[Any]]


def _lazy(constructor: Factory) -> Factory:
    def factory(loop: Any, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        return constructor(coro, loop=loop, **kwargs)

    return factory


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Factory:
    """asyncio's eager factory, bound before the client is on."""
    if not IS_EAGER:
        monkeypatch.setattr(asyncio, "eager_task_factory", _lazy(asyncio.Task), raising=False)
        monkeypatch.setattr(backend, "_eager_task_factory_code", asyncio.eager_task_factory.__code__)  # type: ignore[attr-defined]
    bound: Factory = asyncio.eager_task_factory  # type: ignore[attr-defined]
    return bound


pytestmark = pytest.mark.usefixtures("factory", "offline")


async def _quick() -> CallContext:
    return call_here()


async def _slow() -> CallContext:
    await asyncio.sleep(0)
    return call_here()


@pytest.mark.parametrize("eager_loop", [False, True])
@pytest.mark.parametrize("branch", [_quick, _slow])
async def test_branches_fork_and_join(factory: Factory, branch: Any, eager_loop: bool) -> None:
    """Whether they end in their first step or not, and whatever the loop makes its own tasks with."""
    loop = asyncio.get_running_loop()
    if eager_loop:
        loop.set_task_factory(factory)
    async with autellix.program() as p:
        plan = call_here()
        tasks = [factory(loop, branch(), name=str(number)) for number in range(2)]
        left, right = await asyncio.gather(*tasks)
        end = call_here()
    assert [task.get_name() for task in tasks] == ["0", "1"]
    assert {call.program for call in (plan, left, right, end)} == {p.id}
    assert left.parents == (plan.call,)
    # What was over before the other began is its parent.
    in_turn = IS_EAGER and branch is _quick
    assert right.parents == ((left.call,) if in_turn else (plan.call,))
    assert set(end.parents or ()) == ({right.call} if in_turn else {left.call, right.call})


async def test_a_branch_of_a_branch_in_its_first_step(factory: Factory) -> None:
    """The outer one has made no call yet when it makes the inner one."""
    loop = asyncio.get_running_loop()

    async def outer() -> list[CallContext]:
        inner = factory(loop, _slow())
        return [await inner, call_here()]

    async with autellix.program() as p:
        first, second = await factory(loop, outer())
        third = call_here()
    assert {first.program, second.program, third.program} == {p.id}
    assert (first.parents, second.parents, third.parents) == ((), (first.call,), (second.call,))


async def test_groups_of_anyio_on_an_eager_loop(factory: Factory) -> None:
    """anyio takes what the factory makes tasks with; they are joined when their group ends."""
    asyncio.get_running_loop().set_task_factory(factory)
    calls: list[CallContext] = []

    async def work(task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
        calls.append(call_here())
        task_status.started(42)
        await asyncio.sleep(0)
        calls.append(call_here())

    async with autellix.program() as p:
        calls.append(call_here())
        async with anyio.create_task_group() as group:
            group.start_soon(work)
        async with anyio.create_task_group() as group:
            assert await group.start(work) == 42
        calls.append(call_here())
    assert {call.program for call in calls} == {p.id}
    assert [call.parents for call in calls[1:]] == [(call.call,) for call in calls[:-1]]


async def test_nothing_is_linked_twice(factory: Factory, forks: list[Strand | None]) -> None:
    """A loop whose factory it is links its tasks itself."""
    asyncio.get_running_loop().set_task_factory(factory)
    forks.clear()
    async with autellix.program():
        await asyncio.create_task(_slow())
    assert len(forks) == 1


def test_a_wrapper_around_it_is_left_alone(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of somebody else's: what its closure holds is no class to make tasks with."""

    def wrapped(loop: Any, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        return factory(loop, coro, **kwargs)

    autellix.shutdown()
    monkeypatch.setattr(asyncio, "eager_task_factory", wrapped, raising=False)
    autellix.init("http://127.0.0.1:9/v1")
    (cell,) = wrapped.__closure__ or ()
    assert cell.cell_contents is factory


async def test_shutdown_leaves_the_factory_as_it_was(factory: Factory) -> None:
    """It has been the same function all the time, also for those who got hold of it before."""
    assert asyncio.eager_task_factory is factory  # type: ignore[attr-defined]
    (made_with,) = factory.__closure__ or ()
    assert made_with.cell_contents is not asyncio.Task
    autellix.shutdown()
    assert made_with.cell_contents is asyncio.Task
    task = factory(asyncio.get_running_loop(), _slow())
    assert not hasattr(task, "_autellix_strand")
    with pytest.raises(KeyError):  # the client is off: there are no headers
        await task
