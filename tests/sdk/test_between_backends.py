"""A client that changes its settings, has no backend for a while, or has another make of server or loop behind it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
import uvloop
import uvloop.loop

import autellix_sdk as autellix
from autellix_sdk._runtime import runtime
from autellix_sdk._strands import Strand
from autellix_sdk.wire import CallContext
from tests.sdk.conftest import BASE_URL, WAIT_S, Backend, call_here


class OtherLoop(uvloop.loop.Loop, asyncio.AbstractEventLoop):  # type: ignore[misc]
    """An event loop of another make: neither asyncio's base class nor uvloop's public one is among its bases."""


class OwnLoop(asyncio.SelectorEventLoop):
    """An event loop of the user's, on top of one that is wrapped."""

    def create_task(self, coro: Any, **kwargs: Any) -> Any:
        """Make a task as ever."""
        return super().create_task(coro, **kwargs)


def _ask(backend: Backend) -> None:
    httpx.post(backend.base_url + "/chat/completions", json={})


def test_a_watch_outlives_an_init_without_a_backend(backend: Backend, elsewhere: Backend) -> None:
    """It has nothing to write for the while, and goes on with the next backend, until it is closed."""
    lines: list[autellix.Finished] = []
    autellix.init(backend.base_url)
    with autellix.watch(lines.append):
        with autellix.program("first"):
            _ask(backend)
        autellix.init()
        with autellix.program("unseen"):
            _ask(backend)
        autellix.init(elsewhere.base_url)
        with autellix.program("second"):
            _ask(elsewhere)
        assert runtime.reporter is not None
        runtime.reporter.close(WAIT_S)
    assert [line.bill.name for line in lines] == ["first", "second"]
    assert runtime.reporter.listeners == ()


def test_a_watch_that_was_opened_without_a_backend_begins_with_one(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """It was told that there is nothing yet."""
    lines: list[autellix.Finished] = []
    autellix.init()
    with autellix.watch(lines.append):
        assert "nothing to watch without a backend" in caplog.text
        autellix.init(backend.base_url)
        with autellix.program("first"):
            _ask(backend)
        assert runtime.reporter is not None
        runtime.reporter.close(WAIT_S)
    assert [line.bill.name for line in lines] == ["first"]


def test_a_program_that_is_left_while_there_is_no_backend_is_watched_all_the_same(backend: Backend) -> None:
    """With what was measured here; nobody is told of its end, and its lease ends it."""
    lines: list[autellix.Finished] = []
    autellix.init(backend.base_url)
    with autellix.watch(lines.append):
        with autellix.program("open") as p:
            _ask(backend)
            autellix.init()
        assert p.bill(WAIT_S).calls == 1
        assert runtime.reporter is not None
        runtime.reporter.close(WAIT_S)
    assert [line.bill.name for line in lines] == ["open"]
    assert backend.ends == []


@pytest.mark.parametrize("status", [405, 501])
def test_a_server_without_the_programs_api_is_left_alone(
    backend: Backend, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, and the user is told nothing: stamps and dialects may be of use there all the same."""
    backend.end_status = status
    autellix.init(backend.base_url)
    for _ in range(3):
        with autellix.program() as p:
            _ask(backend)
        assert p.bill(WAIT_S).calls == 1
    assert (len(backend.ends), caplog.records) == (1, [])


async def _two_levels() -> list[CallContext]:
    async def child() -> list[CallContext]:
        await asyncio.sleep(0)
        return [call_here(), *(await asyncio.gather(asyncio.to_thread(call_here)))]

    async with autellix.program():
        return [call_here(), *(await asyncio.create_task(child())), call_here()]


def test_a_loop_of_another_make_needs_the_factory() -> None:
    """With it tasks are followed there, while those of loops that are wrapped are; without it each is a root."""
    autellix.init(BASE_URL)
    with asyncio.Runner(loop_factory=OtherLoop) as runner:
        assert len({call.program for call in runner.run(_two_levels())}) == 3
        runner.get_loop().set_task_factory(autellix.task_factory())
        _check_chain(runner.run(_two_levels()))


@pytest.mark.parametrize("make_loop", [OwnLoop, asyncio.new_event_loop, uvloop.new_event_loop])
def test_where_loops_are_wrapped_the_factory_steps_aside(make_loop: Any, forks: list[Strand | None]) -> None:
    """Also below a class of the user's; tasks are linked once."""
    autellix.init(BASE_URL)

    async def one() -> None:
        forks.clear()
        await asyncio.create_task(asyncio.sleep(0))
        assert len(forks) == 1

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.get_loop().set_task_factory(autellix.task_factory())
        _check_chain(runner.run(_two_levels()))
        runner.run(one())


def _check_chain(calls: list[CallContext]) -> None:
    assert len({call.program for call in calls}) == 1
    assert [call.parents for call in calls[1:]] == [(call.call,) for call in calls[:-1]]
