"""Task groups of anyio on a loop with an eager task factory: anyio builds their tasks by hand, past the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import CodeType
from typing import Any

import anyio
import pytest
from anyio._backends import _asyncio as backend

import autellix_sdk as autellix
from autellix_sdk import _spawns
from autellix_sdk.wire import CallContext
from tests.sdk.conftest import call_here

BASE_URL = "http://127.0.0.1:9/v1"


def _factory_of(constructor: Callable[..., Any]) -> Callable[..., Any]:
    """Make a task factory of the shape that anyio takes for asyncio's eager one; its tasks are as lazy as ever."""

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        return constructor(coro, loop=loop, **kwargs)

    return factory


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch, clean_client: None) -> CodeType:
    """What such factories are recognised by, on every version of Python; the client is on."""
    code = _factory_of(asyncio.Task).__code__
    monkeypatch.setattr(_spawns, "_EAGER_CODE", code)
    autellix.init(BASE_URL)
    return code


async def _call(seen: list[CallContext], task_status: Any = None) -> int:
    seen.append(call_here())
    if task_status is not None:
        task_status.started(42)
    await asyncio.sleep(0)
    seen.append(call_here())
    return 7


async def _groups(seen: list[CallContext]) -> None:
    asyncio.get_running_loop().set_task_factory(_factory_of(asyncio.Task))
    async with autellix.program():
        seen.append(call_here())
        async with anyio.create_task_group() as group:
            group.start_soon(_call, seen)
        async with anyio.create_task_group() as group:
            assert await group.start(_call, seen) == 42
        if hasattr(group, "create_task"):
            async with anyio.create_task_group() as group:
                handle = group.create_task(_call(seen), name="mine")
            assert (handle.name, handle.return_value) == ("mine", 7)
        seen.append(call_here())


@pytest.mark.parametrize("by_hand", [True, False])
def test_their_tasks_are_children(code: CodeType, by_hand: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether anyio builds them or asks the loop, as older versions do; they are joined when the group ends."""
    monkeypatch.setattr(backend, "_eager_task_factory_code", code if by_hand else None)
    seen: list[CallContext] = []
    asyncio.run(_groups(seen))
    assert len(seen) >= 6
    assert len({call.program for call in seen}) == 1
    assert [call.parents for call in seen[1:]] == [(call.call,) for call in seen[:-1]]


def test_misuse_is_reported_as_ever(code: CodeType) -> None:
    """By anyio: what is no coroutine function, a group that is not active, and a place that is no task."""

    def no_coroutine() -> Any:
        return 7

    async def main() -> Any:
        asyncio.get_running_loop().set_task_factory(_factory_of(asyncio.Task))
        async with autellix.program(), anyio.create_task_group() as group:
            with pytest.raises(TypeError, match="to return a coroutine"):
                group.start_soon(no_coroutine)
        with pytest.raises(RuntimeError, match="not active"):
            await group.start(no_coroutine)
        return group

    group = asyncio.run(main())
    with pytest.raises((RuntimeError, TypeError)):
        group.start_soon(no_coroutine)


def test_without_a_program_they_are_roots(code: CodeType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each belongs to the implicit program of the task that started it, like every task."""
    monkeypatch.setattr(backend, "_eager_task_factory_code", code)
    seen: list[CallContext] = []

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(_factory_of(asyncio.Task))
        async with anyio.create_task_group() as group:
            group.start_soon(_call, seen)
        seen.append(call_here())

    asyncio.run(main())
    assert len({call.program for call in seen}) == 1


def test_shutdown_puts_groups_back(code: CodeType) -> None:
    """As everything that was wrapped."""
    assert hasattr(backend.TaskGroup.start_soon, "__wrapped__")
    autellix.shutdown()
    assert not hasattr(backend.TaskGroup.start_soon, "__wrapped__")
    autellix.init(BASE_URL, tasks=False)
    assert not hasattr(backend.TaskGroup.start_soon, "__wrapped__")
