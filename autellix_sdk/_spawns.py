"""Where work is handed over: class-level wraps that link a new task, job or thread to the strand that made it.

Worker threads of pools are detached: they outlive the job that they were started for. Tasks built by hand
(``asyncio.Task(...)``) and plain event loop callbacks are not seen. gevent and trio are not supported.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import CellType, ModuleType
from typing import Any

from autellix_sdk._faults import faults
from autellix_sdk._local import detached, local
from autellix_sdk._patches import Patches
from autellix_sdk._runtime import runtime
from autellix_sdk._strands import HandedCallback, Job, Strand, attach, fork_job, fork_task, is_being_made

_Function = Callable[..., Any]
_ABSENT = object()
_wrapped_loops: tuple[type, ...] = ()


def install(patches: Patches, *, threads: bool, tasks: bool) -> None:
    """Link work to its makers: with `tasks`, asyncio tasks; with `threads`, jobs of other OS threads."""
    global _wrapped_loops
    _wrapped_loops = ()

    def wrap_loop(loop_class: type) -> None:
        global _wrapped_loops
        if tasks:
            _wrapped_loops += (loop_class,)
            patches.wrap(loop_class, "create_task", _create_task)
        if threads:
            patches.wrap(loop_class, "call_soon_threadsafe", _call_soon_threadsafe)

    def wrap_uvloop(uvloop: ModuleType) -> None:
        wrap_loop(uvloop.Loop)

    def wrap_anyio(to_thread: ModuleType) -> None:
        patches.wrap(to_thread, "run_sync", _run_sync)

    def wrap_anyio_workers(backend: ModuleType) -> None:
        patches.wrap(backend.WorkerThread, "start", _start_detached)

    def wrap_thread_pool(pool: ModuleType) -> None:
        patches.wrap(pool.ThreadPool, "__init__", _start_detached)

    wrap_loop(asyncio.base_events.BaseEventLoop)
    if tasks and (made_with := _constructor_cell(getattr(asyncio, "eager_task_factory", None))) is not None:
        patches.fill(made_with, _eager_task)
    patches.when_imported("uvloop", wrap_uvloop)
    if threads:
        patches.wrap(ThreadPoolExecutor, "submit", _submit)
        patches.wrap(threading.Thread, "start", _start)
        patches.when_imported("anyio.to_thread", wrap_anyio)
        patches.when_imported("anyio._backends._asyncio", wrap_anyio_workers)
        patches.when_imported("multiprocessing.pool", wrap_thread_pool)


def task_factory(inner: _Function | None = None) -> _Function:
    """Make a task factory that links tasks to their makers, for loops that are not to be wrapped, or not known.

    Use it as ``loop.set_task_factory(autellix.task_factory())``: with ``init(tasks=False)`` on any loop, else on loops
    of another make than asyncio's and uvloop's. On a loop that is wrapped it has nothing to do. Tasks that are eager
    because of `inner` do not go with anyio's task groups, which know the eager factory of asyncio only when they see it
    bare.

    Args:
        inner: the factory to make tasks with, such as ``asyncio.eager_task_factory``; by default ``asyncio.Task``.
    """
    make = inner or _new_task
    make_linked = _create_task(make)

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        return (make if isinstance(loop, _wrapped_loops) else make_linked)(loop, coro, **kwargs)

    return factory


def _new_task(loop: Any, coro: Any, **kwargs: Any) -> Any:
    return asyncio.Task(coro, loop=loop, **kwargs)


def _fork(fork: Callable[[], Strand | None]) -> Strand | None:
    """Fork a strand; without one the work still runs, as a root."""
    if runtime.settings is None:  # a wrapper that outlived `shutdown` because somebody wrapped it in turn
        return None
    try:
        return fork()
    except Exception as error:  # noqa: BLE001 must not break the user's call
        faults.survive("work could not be linked to the program that started it", error)
        return None


def _create_task(original: _Function) -> _Function:
    def create_task(loop: Any, coro: Any, *args: Any, **kwargs: Any) -> Any:
        strand = _fork(fork_task)
        outer = local.unborn
        if strand is None and outer is None:
            return original(loop, coro, *args, **kwargs)
        local.unborn = strand
        try:
            task = original(loop, coro, *args, **kwargs)
        finally:
            local.unborn = outer
        try:
            if strand is not None:
                attach(task, strand)
        except Exception as error:  # noqa: BLE001 must not break the user's call
            faults.survive("a task could not be linked to the program that started it", error)
        return task

    return create_task


def _constructor_cell(eager_factory: Any) -> CellType | None:
    """Return where asyncio's eager factory, which came with Python 3.12, keeps the class that it makes tasks with."""
    cells: Sequence[CellType] = getattr(eager_factory, "__closure__", None) or ()
    # Else it is somebody's wrapper around it.
    return cells[0] if len(cells) == 1 and isinstance(cells[0].cell_contents, type) else None


def _eager_task(constructor: _Function) -> _Function:
    """Link eager tasks made past the loop: LangGraph calls asyncio's factory, anyio takes what that makes them with.

    They know the factory from before us, or by its code; so it stays the same function and has another constructor.
    """

    def make(loop: Any, coro: Any, **kwargs: Any) -> Any:
        return constructor(coro, loop=loop, **kwargs)

    make_linked = _create_task(make)

    def eager_task(coro: Any, *, loop: Any, **kwargs: Any) -> Any:
        return (make if is_being_made() else make_linked)(loop, coro, **kwargs)

    return eager_task


def _call_soon_threadsafe(original: _Function) -> _Function:
    def call_soon_threadsafe(loop: Any, callback: Any, *args: Any, **kwargs: Any) -> Any:
        strand = _fork(fork_job)
        if strand is not None:
            callback = HandedCallback(strand, callback)
        return original(loop, callback, *args, **kwargs)

    return call_soon_threadsafe


def _submit(original: _Function) -> _Function:
    def submit(pool: Any, fn: _Function, /, *args: Any, **kwargs: Any) -> Any:
        # The job is linked, the worker thread that may be started for it is not.
        with detached():
            return original(pool, Job(_fork(fork_job), fn), *args, **kwargs)

    return submit


def _start_detached(original: _Function) -> _Function:
    def start_detached(*args: Any, **kwargs: Any) -> Any:
        with detached():
            return original(*args, **kwargs)

    return start_detached


def _start(original: _Function) -> _Function:
    def start(thread: Any) -> Any:
        strand = None if local.detached else _fork(fork_job)
        if strand is None:
            return original(thread)
        run, own_run = Job(strand, thread.run), vars(thread).get("run", _ABSENT)

        def put_back() -> None:
            vars(thread).pop("run", None)
            if own_run is not _ABSENT:
                thread.run = own_run

        def run_once() -> None:
            put_back()  # else the thread would refer to itself
            run()

        thread.run = run_once
        try:
            return original(thread)
        except BaseException:
            put_back()
            raise

    return start


def _run_sync(original: _Function) -> _Function:
    async def run_sync(func: _Function, *args: Any, **kwargs: Any) -> Any:
        return await original(Job(_fork(fork_job), func), *args, **kwargs)

    return run_sync
