"""A small real OpenAI-compatible server, whose manners a test chooses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from bench_world import bill

from autellix_sdk.wire import BILL_COMMENT


@dataclass
class FakeOpenAI:
    """What it saw and how it behaves.

    Attributes:
        refused_fields: fields of a request that get a 400.
        counts: whether streams end with token counts.
        stops_after: tokens after which the model ends its output, whatever is asked; `None` obeys.
        healthy_calls: calls that it answers before it refuses all others; `None` for all.
        cut: whether streams break off before their end.
        ours: whether it knows programs and sends bills.
        hold: while it is set to an event, calls wait for that.
        waiting: calls that wait for `hold`.
        bodies, headers: of calls, in order.
        ended: programs that were ended.
        flushed: how often its cache was.
        url: where it is.
    """

    refused_fields: frozenset[str] = frozenset()
    counts: bool = True
    stops_after: int | None = None
    healthy_calls: int | None = None
    ours: bool = False
    cut: bool = False
    hold: asyncio.Event | None = None
    waiting: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    ended: list[dict[str, Any]] = field(default_factory=list)
    flushed: int = 0
    url: str = ""

    async def models(self, request: web.Request) -> web.Response:
        """List one model, by a path that nobody else is to see."""
        return web.json_response({"data": [{"id": "/secret/folder/tiny", "max_model_len": 512}]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Stream an answer of words."""
        body = await request.json()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.healthy_calls is not None and len(self.bodies) > self.healthy_calls:
            return web.json_response({"error": {"message": "out of memory"}}, status=500)
        for name in self.refused_fields & body.keys():
            return web.json_response({"error": {"message": f"unknown field {name}"}}, status=400)
        if self.hold is not None:
            self.waiting += 1
            await self.hold.wait()
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        tokens = min(body["max_tokens"], self.stops_after or body["max_tokens"])
        chat = request.path.endswith("/chat/completions")
        for _ in range(tokens):
            choice = {"delta": {"content": " word"}} if chat else {"text": " word"}
            await self._event(stream, {"choices": [{"index": 0, **choice}]})
        if self.cut:
            assert request.transport is not None
            request.transport.close()
            return stream
        if self.counts:
            usage = {"prompt_tokens": len(str(body.get("prompt")).split()), "completion_tokens": tokens}
            await self._event(stream, {"choices": [], "usage": usage})
        if self.ours:
            await stream.write(BILL_COMMENT + bill(2_000_000, 1000).encode().encode() + b"\n\n")
        await stream.write(b"data: [DONE]\n\n")
        await stream.write_eof()
        return stream

    async def end(self, request: web.Request) -> web.Response:
        """End programs, as our gateway does."""
        self.ended += (await request.json())["programs"]
        return web.json_response({"results": []})

    async def flush(self, request: web.Request) -> web.Response:
        """Empty the cache, as SGLang does."""
        self.flushed += 1
        return web.Response(text="Cache flushed.")

    async def info(self, request: web.Request) -> web.Response:
        """Say too much, as SGLang does."""
        return web.json_response({"version": "9.9", "model_path": "/secret/folder", "host": "secret", "tp_size": 2})

    async def _event(self, stream: web.StreamResponse, event: dict[str, Any]) -> None:
        await stream.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@asynccontextmanager
async def running(server: FakeOpenAI, below: str = "") -> AsyncIterator[FakeOpenAI]:
    """Run the server on a free port; `below` begins all of its paths."""
    app = web.Application(client_max_size=1 << 24)
    app.router.add_get(f"{below}/v1/models", server.models)
    app.router.add_post(f"{below}/v1/completions", server.complete)
    app.router.add_post("/v1/chat/completions", server.complete)
    app.router.add_post("/flush_cache", server.flush)
    app.router.add_get("/server_info", server.info)
    if server.ours:
        app.router.add_post("/autellix/v1/programs/end", server.end)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}{below}"
    try:
        yield server
    finally:
        await runner.cleanup()
