"""Starts workers, decides for them, and starts those again that die."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from typing import Self

from autellix_server.gateway.dispatch import Dispatcher
from autellix_server.gateway.settings import ServeSettings
from autellix_server.gateway.workers.messages import LINE_LIMIT
from autellix_server.gateway.workers.served import ServedDesk

_log = logging.getLogger(__name__)

_MODULE = "autellix_server.gateway.workers.process"
_BACKOFF_S = 1.0
_GRACE_S = 5.0


class Crew:
    """The workers of one gateway. An asynchronous context, inside which they are kept alive.

    Args:
        settings: of the gateway; they say how many workers there are.
        dispatcher: decides for all of them.
        listening: the gateway's port, on which they accept clients.
        api: path of the socket with everything that is not theirs to answer.
    """

    def __init__(self, settings: ServeSettings, dispatcher: Dispatcher, listening: socket.socket, api: str) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._listening = listening
        self._api = api

    async def __aenter__(self) -> Self:
        self._lives = [asyncio.create_task(self._keep(number)) for number in range(self._settings.workers)]
        return self

    async def __aexit__(self, *failure: object) -> None:
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)
        self._listening.close()

    async def _keep(self, number: int) -> None:
        while True:
            status = await self._one_life()
            _log.warning("worker %d exited with status %s; it is started again", number, status)
            await asyncio.sleep(_BACKOFF_S)

    async def _one_life(self) -> int:
        """Start a worker and decide for it until it dies; return its exit status."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", _MODULE, str(self._listening.fileno()), str(theirs.fileno()), self._api),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(self._listening.fileno(), theirs.fileno()),
                env={**os.environ, "PYTHONSAFEPATH": "1"},
            )
        try:
            assert process.stdin is not None
            process.stdin.write(self._settings.model_dump_json().encode())
            process.stdin.close()
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LINE_LIMIT)
            await ServedDesk(self._dispatcher, reader, writer).run()
            return await process.wait()
        finally:
            # It ends by itself when its socket does; calls in flight have that long.
            try:
                await asyncio.wait_for(process.wait(), _GRACE_S)
            except TimeoutError:
                process.kill()
                await process.wait()
