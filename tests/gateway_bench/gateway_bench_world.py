"""Servers within a test's own event loop: the fixed engine, and ones that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from autellix_server.gateway_bench.fixed_engine import FixedEngine


@asynccontextmanager
async def listening(protocol: Callable[[], asyncio.BaseProtocol] = FixedEngine) -> AsyncIterator[str]:
    """Run a server for as long as the context lasts; yields its URL."""
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


class Says(asyncio.Protocol):
    """Answers every request with the same bytes, after a moment that a test chooses.

    Args:
        data: the answer; empty: the connection is closed instead.
        after: answers wait until it is set.
    """

    def __init__(self, data: bytes, after: asyncio.Event) -> None:
        self._data, self._after = data, after
        self._task: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self._task = asyncio.ensure_future(self._answer())

    async def _answer(self) -> None:
        await self._after.wait()
        if self._data:
            self.transport.write(self._data)
        else:
            self.transport.close()
