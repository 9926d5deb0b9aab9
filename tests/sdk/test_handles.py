"""Handles: identity handed over where it does not follow by itself, with the right parents."""

from __future__ import annotations

import asyncio
import inspect
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import pytest

import autellix_sdk as autellix
from autellix_sdk import _programs
from autellix_sdk._strands import Job, new_root
from autellix_sdk.wire import CallContext
from tests.sdk.conftest import BASE_URL, WAIT_S, call_here

pytestmark = pytest.mark.usefixtures("offline")


async def _acall() -> CallContext:
    await asyncio.sleep(0)
    return call_here()


def test_a_queue_worker_that_was_there_before() -> None:
    """A job belongs to the program that queued it, branches off where it was queued, and is joined when it is done."""
    jobs: queue.Queue[Callable[[], CallContext] | None] = queue.Queue()
    done: queue.Queue[CallContext] = queue.Queue()

    def work() -> None:
        while (job := jobs.get(timeout=WAIT_S)) is not None:
            done.put(job())

    worker = threading.Thread(target=work)
    worker.start()
    with autellix.program("agent") as p:
        plan = call_here()
        for _ in range(2):
            jobs.put(autellix.bind(call_here))
        parts = [done.get(timeout=WAIT_S) for _ in range(2)]
        end = call_here()
    jobs.put(call_here)
    outside = done.get(timeout=WAIT_S)
    jobs.put(None)
    worker.join(WAIT_S)
    assert [(part.program, part.name, part.parents) for part in parts] == [(p.id, "agent", (plan.call,))] * 2
    assert set(end.parents or ()) == {part.call for part in parts}
    assert outside.program != p.id


def test_callbacks_of_the_loop() -> None:
    """`call_soon` and `call_later` run bound functions for the task that scheduled them, and tasks they start too."""
    calls: dict[str, CallContext] = {}
    tasks: list[asyncio.Task[CallContext]] = []

    def callback(label: str, done: asyncio.Event) -> None:
        calls[label] = call_here()
        tasks.append(asyncio.get_running_loop().create_task(_acall()))
        done.set()

    async def main() -> None:
        loop, soon, later = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        async with autellix.program():
            calls["start"] = call_here()
            loop.call_soon(autellix.bind(callback), "soon", soon)
            loop.call_later(0, autellix.bind(callback), "later", later)
            await asyncio.gather(soon.wait(), later.wait())
            calls["from soon"], calls["from later"] = await asyncio.gather(*tasks)
            calls["end"] = call_here()
        loop.call_soon(callback, "unbound", soon := asyncio.Event())
        await soon.wait()
        await tasks.pop()

    asyncio.run(main())
    start, soon, later = calls["start"], calls["soon"], calls["later"]
    assert start.program == soon.program == later.program == calls["from soon"].program != calls["unbound"].program
    assert soon.parents == later.parents == (start.call,)
    assert (calls["from soon"].parents, calls["from later"].parents) == ((soon.call,), (later.call,))
    assert set(calls["end"].parents or ()) == {calls["from soon"].call, calls["from later"].call}


def test_tasks_of_an_implicit_program_started_by_a_callback() -> None:
    """A handle leads there without any scope; a callback's tasks are not roots."""
    tasks: list[asyncio.Task[CallContext]] = []

    async def main() -> tuple[CallContext, CallContext]:
        first = call_here()
        asyncio.get_running_loop().call_soon(autellix.bind(lambda: tasks.append(asyncio.create_task(_acall()))))
        await asyncio.sleep(0)
        return first, await tasks[0]

    first, second = asyncio.run(main())
    assert (second.program, second.parents) == (first.program, (first.call,))


def test_tasks_built_by_hand() -> None:
    """`asyncio.Task(...)` of a bound coroutine function is a child."""

    async def main() -> tuple[CallContext, CallContext, CallContext]:
        async with autellix.program():
            start = call_here()
            child = await asyncio.Task(autellix.bind(_acall)())
            return start, child, call_here()

    start, child, end = asyncio.run(main())
    assert (child.program, child.parents, end.parents) == (start.program, (start.call,), (child.call,))


def test_a_handle_remembers_where_the_code_stood() -> None:
    """What the code calls after the capture is no parent; each attachment branches off anew."""
    with autellix.program():
        start = call_here()
        handle = autellix.capture()
        middle = call_here()
        with autellix.program() as other:
            with handle.attach():
                first = call_here()
            with handle.attach():
                second = call_here()
            assert call_here().program == other.id
        end = call_here()
    assert middle.parents == first.parents == second.parents == (start.call,)
    assert set(end.parents or ()) == {middle.call, first.call, second.call}
    with handle.attach():
        late = call_here()
    assert (late.program, late.parents) == (start.program, (start.call,))


@pytest.mark.parametrize("called_before", [True, False])
def test_a_handle_of_a_program_that_has_gone_idle_joins(monkeypatch: pytest.MonkeyPatch, called_before: bool) -> None:
    """Calls of the implicit program that it leads to go on as ever, and those of the one that followed it too."""

    def job() -> tuple[CallContext, ...]:
        if called_before:
            call_here()
        handle = autellix.capture()
        with monkeypatch.context() as patch:
            patch.setattr(_programs, "IMPLICIT_IDLE_S", 0.0)
            second = call_here()
        with handle.attach():
            inner = autellix.capture()
            with inner.attach():
                left = call_here()
            with inner.attach():
                right = call_here()
            end = call_here()
        return second, left, right, end, call_here()

    second, left, right, end, after = Job(new_root(), job)()
    assert left.program == right.program == end.program != second.program == after.program
    assert set(end.parents or ()) == {left.call, right.call}
    assert after.parents == (second.call,)


async def test_attaching_in_a_task() -> None:
    """`async with` works as `with` does, for the task and for what it starts."""
    async with autellix.program() as p:
        handle = autellix.capture()
    async with autellix.program() as mine:
        async with handle.attach() as nothing:
            assert nothing is None
            there = await asyncio.gather(_acall(), asyncio.to_thread(call_here))
        here = call_here()
    assert [call.program for call in there] == [p.id] * 2
    assert (here.program, here.parents) == (mine.id, ())


def test_an_attachment_is_entered_once() -> None:
    """A handle makes as many as are needed."""
    attachment = autellix.capture().attach()
    with attachment, pytest.raises(autellix.UsageError, match="an attachment is entered twice"):
        attachment.__enter__()


def test_bound_generators_are_there_only_while_they_run() -> None:
    """Their calls are a chain, whatever their consumer calls in between."""

    def agent() -> Iterator[CallContext]:
        yield call_here()
        yield call_here()

    with autellix.program() as p:
        bound = autellix.bind(agent)
    with autellix.program() as mine:
        runs = [bound(), bound()]
        calls = [(next(run), call_here()) for _ in range(2) for run in runs]
    assert {(there.program, here.program) for there, here in calls} == {(p.id, mine.id)}
    assert [there.parents for there, _ in calls] == [(), (), (calls[0][0].call,), (calls[1][0].call,)]


async def test_bound_async_generators() -> None:
    """The same, for whichever task steps them."""

    async def agent() -> AsyncIterator[CallContext]:
        yield await _acall()
        yield await _acall()

    with autellix.program() as p:
        bound = autellix.bind(agent)
    run = bound()
    first = await anext(run)
    second: CallContext = await asyncio.create_task(run.__anext__())  # type: ignore[arg-type]
    assert (first.program, second.program, second.parents) == (p.id, p.id, (first.call,))


def test_bound_functions_look_as_before() -> None:
    """Name, documentation, kind and errors are the function's own; what has no name is bound as well."""

    async def job() -> None:
        """Do it."""
        raise LookupError

    bound = autellix.bind(job)
    assert (bound.__name__, bound.__doc__, inspect.iscoroutinefunction(bound)) == ("job", "Do it.", True)
    with pytest.raises(LookupError):
        asyncio.run(bound())
    with autellix.program() as p:
        call = autellix.bind(partial(call_here))
    assert call().program == p.id


def test_without_implicit_programs_a_handle_may_lead_nowhere() -> None:
    """What was captured outside any scope goes unstamped, wherever it is attached."""
    autellix.init(BASE_URL, implicit="off")
    nowhere = autellix.capture()
    with autellix.program(), nowhere.attach():
        assert autellix.headers() == {}
        assert autellix.current() is None


def test_handles_before_init() -> None:
    """Capturing needs nothing to be switched on."""
    autellix.shutdown()
    with autellix.program() as p:
        handle = autellix.capture()
    autellix.init(BASE_URL)
    with handle.attach():
        assert call_here().program == p.id
    assert repr(handle) == f"Handle({p!r})"


def test_callbacks_that_bind_the_next_one_keep_no_history() -> None:
    """A chain of them, each scheduled by the one before, holds on to the latest link only."""
    with autellix.program():
        handle = autellix.capture()
        for _ in range(100):
            with handle.attach():
                call_here()
                handle = autellix.capture()
    length, branch = 0, handle._branch
    while branch.parent is not None:
        length, branch = length + 1, branch.parent
    assert length <= 4


def test_leaving_what_was_never_entered_does_nothing() -> None:
    """An exit stack that is taken apart early may do so."""
    with autellix.program() as p:
        autellix.capture().attach().__exit__(None, None, None)
        autellix.program().__exit__(None, None, None)
        assert autellix.current() is p


def test_a_handle_is_told_of_a_new_salt() -> None:
    """Calls before a fork are named by the salt they were made under, once, however often it is attached."""
    with autellix.program() as p:
        before = call_here()
        handle = autellix.capture()
    p.after_fork()
    for _ in range(2):
        with handle.attach():
            after = call_here()
        assert after.salt == p.salt != before.salt
        assert after.parents == (f"{before.salt}.{before.call}",)


def test_a_fork_forgets_the_calls_of_a_program_that_has_ended() -> None:
    """They could not be named, and what is called next is another program."""
    strand = new_root()
    Job(strand, call_here)()
    program = strand.owner.peek()
    assert program is not None
    program.end()
    strand.after_fork()
    assert strand.branch.frontier == ()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_handle_in_a_forked_process() -> None:
    """The calls before it are named as the other process's."""
    read, write = os.pipe()
    with autellix.program() as p:
        before = call_here()
        handle = autellix.capture()
    pid = os.fork()
    if pid == 0:
        try:
            with handle.attach():
                calls = [call_here(), call_here()]
            lines = [f"{call.program} {call.salt} {call.call} {','.join(call.parents or ())}" for call in calls]
            os.write(write, "\n".join(lines).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    first, second = (line.split() for line in os.read(read, 1000).decode().splitlines())
    os.close(read)
    os.close(write)
    assert first[0] == second[0] == p.id
    assert first[1] == second[1] != before.salt
    assert (first[3], second[3]) == (f"{before.salt}.{before.call}", first[2])
