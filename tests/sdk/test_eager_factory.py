"""Tasks made by calling asyncio's eager factory directly, as LangGraph makes its parallel branches."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

import autellix_sdk as autellix
from autellix_sdk.wire import CallContext
from tests.sdk.conftest import call_here

pytestmark = [
    pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12"),
    pytest.mark.usefixtures("offline"),
]


def _make(coro: Coroutine[Any, Any, Any], **more: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.eager_task_factory(  # type: ignore[attr-defined]
        asyncio.get_running_loop(), coro, **more
    )
    return task


async def _quick() -> CallContext:
    return call_here()


async def _slow() -> CallContext:
    await asyncio.sleep(0)
    return call_here()


@pytest.mark.parametrize("eager_loop", [False, True])
@pytest.mark.parametrize("branch", [_quick, _slow])
async def test_branches_fork_and_join(branch: Any, eager_loop: bool) -> None:
    """Whether they end in their first step or not, and whatever the loop makes its own tasks with."""
    if eager_loop:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    async with autellix.program() as p:
        plan = call_here()
        tasks = [_make(branch(), name=str(number)) for number in range(2)]
        left, right = await asyncio.gather(*tasks)
        end = call_here()
    assert [task.get_name() for task in tasks] == ["0", "1"]
    assert {call.program for call in (plan, left, right, end)} == {p.id}
    assert left.parents == (plan.call,)
    # What was over before the other began is its parent.
    assert right.parents == ((left.call,) if branch is _quick else (plan.call,))
    assert set(end.parents or ()) == ({right.call} if branch is _quick else {left.call, right.call})


async def test_a_branch_of_a_branch_in_its_first_step() -> None:
    """The outer one has made no call yet when it makes the inner one."""

    async def outer() -> list[CallContext]:
        inner = _make(_slow())
        return [await inner, call_here()]

    async with autellix.program() as p:
        first, second = await _make(outer())
        third = call_here()
    assert {first.program, second.program, third.program} == {p.id}
    assert (first.parents, second.parents, third.parents) == ((), (first.call,), (second.call,))


async def test_nothing_is_linked_twice() -> None:
    """A loop whose factory it is links its tasks itself."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    async with autellix.program():
        task = asyncio.create_task(_slow())
        assert len(task._callbacks or ()) == 1
        await task


async def test_it_is_asyncios_own_to_those_who_look() -> None:
    """anyio tells it by its code; after `shutdown` it is the one from before, and a loop that kept ours goes on."""
    ours = asyncio.eager_task_factory  # type: ignore[attr-defined]
    autellix.shutdown()
    before = asyncio.eager_task_factory  # type: ignore[attr-defined]
    assert ours is not before
    assert ours.__code__ is before.__code__
    task = ours(asyncio.get_running_loop(), _slow())
    assert not task._callbacks
    with pytest.raises(KeyError):  # the client is off: there are no headers
        await task
