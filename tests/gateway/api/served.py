"""A gateway with a fake engine in a thread of their own, for clients that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from queue import SimpleQueue
from typing import Any

from fake_engine import FakeEngine, Gateway, running_engine, running_gateway


@contextmanager
def served(models: tuple[str, ...] = ("",), **settings: Any) -> Iterator[tuple[Gateway, list[FakeEngine]]]:
    """Run a gateway, and an engine for each model, of which only what can be read from another thread may be used.

    Args:
        models: names of models; empty: the engine does not say.
        settings: as of `running_gateway`.
    """
    started: SimpleQueue[tuple[Gateway, list[FakeEngine], asyncio.Event] | BaseException] = SimpleQueue()

    async def serve() -> None:
        stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            engines = [
                await stack.enter_async_context(running_engine(name=f"e{number}", models=(model,) if model else ()))
                for number, model in enumerate(models)
            ]
            started.put((await stack.enter_async_context(running_gateway(engines, **settings)), engines, stop))
            await stop.wait()

    def run() -> None:
        try:
            with asyncio.Runner() as runner:
                loops.append(runner.get_loop())
                runner.run(serve())
        except BaseException as error:
            started.put(error)
            raise

    loops: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=run)
    thread.start()
    said = started.get()
    if isinstance(said, BaseException):
        raise said
    gateway, engines, stop = said
    try:
        yield gateway, engines
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()
