"""Starts workers, decides for them, and starts those again that die."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Self

from autellix_server.gateway.dispatch import Dispatcher
from autellix_server.gateway.settings import ServeSettings
from autellix_server.gateway.workers.messages import LINE_LIMIT
from autellix_server.gateway.workers.served import ServedDesk

_log = logging.getLogger(__name__)

_MODULE = "autellix_server.gateway.workers.process"
_BACKOFF_S = 1.0
_BACKOFF_LIMIT_S = 30.0
_STABLE_S = 60.0
"""A worker that lived for so long has worked: the next one is started after the shortest back-off."""
_GRACE_S = 5.0


class Crew:
    """The workers of one gateway. An asynchronous context, inside which they are kept alive.

    Args:
        settings: of the gateway; they say how many workers there are.
        dispatcher: decides for all of them.
        listening: the gateway's port, on which they accept clients.
        api: path of the socket with everything that is not theirs to answer.

    Attributes:
        lives: keep one worker each; when one of these ends the gateway is broken.
    """

    lives: Sequence[asyncio.Task[None]]

    def __init__(self, settings: ServeSettings, dispatcher: Dispatcher, listening: socket.socket, api: str) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._listening = listening
        self._api = api

    async def __aenter__(self) -> Self:
        self.lives = [asyncio.create_task(self._keep(number)) for number in range(self._settings.workers)]
        return self

    async def __aexit__(self, *failure: object) -> None:
        for life in self.lives:
            life.cancel()
        await asyncio.gather(*self.lives, return_exceptions=True)
        self._listening.close()

    async def _keep(self, number: int) -> None:
        clock, wait_s = asyncio.get_running_loop().time, _BACKOFF_S
        while True:
            began_s = clock()
            try:
                end = f"exited with status {await self._one_life()}"
            except OSError as error:  # no memory, no process, no descriptor left
                end = f"cannot be started: {error.strerror or error}"
            if clock() - began_s > _STABLE_S:
                wait_s = _BACKOFF_S
            _log.warning("worker %d %s; it is started again in %.0f s", number, end, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _BACKOFF_LIMIT_S)

    async def _one_life(self) -> int | None:
        """Start a worker and decide for it until it dies; return its exit status.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = socket.socketpair()
        with ExitStack() as unused, theirs:
            unused.callback(ours.close)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", _MODULE, str(self._listening.fileno()), str(theirs.fileno()), self._api),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(self._listening.fileno(), theirs.fileno()),
                env={**os.environ, "PYTHONSAFEPATH": "1"},
            )
            unused.pop_all()
        serving = asyncio.create_task(self._serve(process, ours))
        try:
            await asyncio.shield(serving)
        finally:
            # Its calls in flight have that long to end, and are decided about meanwhile.
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _GRACE_S)
            except TimeoutError:
                process.kill()
                await process.wait()
            await serving
        return process.returncode

    async def _serve(self, process: asyncio.subprocess.Process, ours: socket.socket) -> None:
        """Tell a worker the settings, and decide for it until it goes."""
        assert process.stdin is not None
        process.stdin.write(self._settings.model_dump_json().encode())
        process.stdin.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LINE_LIMIT)
        await ServedDesk(self._dispatcher, reader, writer).run()
