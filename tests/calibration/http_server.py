"""A small completions server on a thread of its own, for a client that blocks."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SERVER_INFO = {"max_running_requests": 4, "max_total_num_tokens": 4096, "chunked_prefill_size": 32, "other": "x"}

_TOKEN_S = 0.003
"""Slow enough that calls which are sent together run side by side also on a busy machine."""


@dataclass
class CompletionsServer:
    """What it says, and what it was asked.

    Attributes:
        info: its ``/server_info``; `None` when it has none.
        health: its ``/health``; `None` when it has none.
        tokens_missing: tokens that every answer is short of.
        lines: stream to send in place of tokens, if any.
        seen: bodies of calls.
        keys: their Authorization headers.
        url: where it is.
    """

    info: dict[str, Any] | None = field(default_factory=lambda: dict(SERVER_INFO))
    health: dict[str, Any] | None = None
    tokens_missing: int = 0
    lines: list[bytes] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": "tiny", "max_model_len": 512}, {"id": "other"}]})
        if request.path == "/server_info" and self.info is not None:
            return web.json_response(self.info)
        if request.path == "/health" and self.health is not None:
            return web.json_response(self.health)
        if request.path != "/v1/completions":
            return web.json_response({"error": "no such thing"}, status=404)
        body = await request.json()
        self.seen.append(body)
        self.keys.append(request.headers.get("Authorization"))
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for line in self.lines or self._events(body["max_tokens"] - self.tokens_missing):
            await asyncio.sleep(_TOKEN_S)
            await stream.write(line)
        await stream.write(b"data: [DONE]\n\n")
        await stream.write_eof()
        return stream

    def _events(self, tokens: int) -> Iterator[bytes]:
        for token in range(tokens):
            event = {"choices": [{"text": " to"}], "usage": {"completion_tokens": token + 1}}
            yield b"data: " + json.dumps(event).encode() + b"\n\n"
        yield b'data: {"choices": [], "usage": {"completion_tokens": %d}}\n\n' % tokens


@contextmanager
def serving(server: CompletionsServer) -> Iterator[CompletionsServer]:
    """Run the server until the context ends."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        runner = web.ServerRunner(web.Server(server.handle))  # type: ignore[arg-type]
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        asked_to_stop = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), asked_to_stop))
        await asked_to_stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    loop, asked_to_stop = started.result()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(asked_to_stop.set)
        thread.join()
