"""What a connection may cost: time without a request, the size of heads, how many there are, answers nobody reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from fake_engine import CHAT, FakeEngine, Gateway, Seen, event, running_gateway, start_stream

from autellix_server.gateway.connections import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_LINE_BYTES,
    Runner,
    connections_that_fit,
)

IDLE_LIMIT_S = 0.2
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CALL = json.dumps(CHAT).encode()


@pytest.fixture
async def hasty(engine: FakeEngine) -> AsyncIterator[Gateway]:
    """A gateway that soon drops idle connections."""
    async with running_gateway(engine, idle_limit_s=IDLE_LIMIT_S) as gateway:
        yield gateway


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Hold a connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def said(url: str, data: bytes) -> bytes:
    """Send bytes, and return everything that comes until the gateway drops the connection."""
    async with connected(url) as (reader, writer):
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 5)


@pytest.mark.parametrize("data", [b"", b"POST /v1", HEAD, HEAD + b"Content-Le"])
async def test_a_connection_without_a_whole_head_is_dropped(hasty: Gateway, engine: FakeEngine, data: bytes) -> None:
    """With nothing, since nothing was asked."""
    assert await said(hasty.url, data) == b""
    assert engine.seen == []


@pytest.mark.parametrize("framing", [b"Content-Length: 500\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1f4\r\n"])
@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/models", b"/autellix/v1/programs"])
async def test_a_body_that_stops_coming_is_a_408(
    hasty: Gateway, engine: FakeEngine, path: bytes, framing: bytes
) -> None:
    """Whoever was to read it; then the connection is dropped."""
    head = HEAD.replace(b"/v1/chat/completions", path)
    answer = await said(hasty.url, head + framing + b'{"name": ')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.rpartition(b"\r\n")[2])["error"]["code"] == "request_timeout"
    assert engine.seen == []


async def test_a_kept_connection_is_dropped_when_nothing_follows(hasty: Gateway) -> None:
    """After a whole answer."""
    head = HEAD + f"Content-Length: {len(CALL)}\r\n\r\n".encode()
    assert (await said(hasty.url, head + CALL)).startswith(b"HTTP/1.1 200 ")


async def test_a_slow_body_is_waited_for_as_long_as_it_comes(hasty: Gateway) -> None:
    """Here for twice the limit in all."""
    body = CALL[:-1] + b" " * 400 + b"}"
    step = len(body) // 8 + 1
    async with connected(hasty.url) as (reader, writer):
        writer.write(HEAD + f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
        for start in range(0, len(body), step):
            writer.write(body[start : start + step])
            await asyncio.sleep(IDLE_LIMIT_S / 4)
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_is_not_idle_however_long_it_is_quiet(hasty: Gateway, engine: FakeEngine, stream: bool) -> None:
    """Before its first byte, and within its stream."""

    async def think(request: web.Request, seen: Seen) -> web.StreamResponse:
        await asyncio.sleep(2 * IDLE_LIMIT_S)
        if not stream:
            return await engine.answer(request, seen)
        response = await start_stream(request)
        await response.write(event("to "))
        await asyncio.sleep(2 * IDLE_LIMIT_S)
        await response.write_eof(event("be"))
        return response

    engine.behave = think
    async with hasty.client.post(hasty.url + "/v1/chat/completions", json={**CHAT, "stream": stream}) as answer:
        text = await answer.text()
    assert all(word in text for word in ("to ", "be")), text


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * MAX_LINE_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (HEAD + b"X-Large: " + b"x" * (MAX_LINE_BYTES + 1) + b"\r\n\r\n", 431),
        (HEAD + (b"X-Some: " + b"x" * 8000 + b"\r\n") * (MAX_HEAD_BYTES // 8000 + 1) + b"\r\n", 431),
        (HEAD + b"X-Many: x\r\n" * MAX_HEADERS + b"\r\n", 400),
        (b"no HTTP at all\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nno chunk", 400),
    ],
    ids=["line", "header", "headers", "many", "none", "chunk"],
)
async def test_heads_are_bounded(gateway: Gateway, engine: FakeEngine, head: bytes, status: int) -> None:
    """What is too much, or no HTTP, is said as everything else is."""
    async with connected(gateway.url) as (reader, writer):
        writer.write(head)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert int(answer.split()[1]) == status
        body = json.loads(await reader.readexactly(int(answer.lower().partition(b"content-length: ")[2].split()[0])))
    assert body["error"]["message"]
    assert engine.seen == []


async def test_connections_are_bounded() -> None:
    """One more is told so at once, and those that are there go on; it may come when one of them has gone."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.add_routes([web.get("/", answer)])
    runner = Runner(app, 60.0, most_connections=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    ask = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    try:
        async with connected(url) as (reader, writer):
            for _ in range(2):
                writer.write(ask)
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
                refused = await said(url, b"")
                assert refused.startswith(b"HTTP/1.1 503 ")
                assert b"Retry-After: " in refused
                assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
        last = ask.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        while not (await said(url, last)).endswith(b"ok"):
            pass
    finally:
        await runner.cleanup()


def test_there_is_room_for_a_connection() -> None:
    """Of as many as this process may have, whatever else is open."""
    assert connections_that_fit() >= 1


async def test_what_a_client_does_not_read_is_not_read_from_the_engine(gateway: Gateway, engine: FakeEngine) -> None:
    """So that an answer that nobody takes is held by the engine, and not here; it comes whole once it is taken."""
    piece, pieces, sent, full = b": " + b"x" * 65_532 + b"\n\n", 1024, 0, asyncio.Event()

    async def talk(request: web.Request, seen: Seen) -> web.StreamResponse:
        nonlocal sent
        response = await start_stream(request)
        for _ in range(pieces):
            blocked = asyncio.get_running_loop().call_later(0.5, full.set)
            await response.write(piece)
            blocked.cancel()
            sent += 1
        await response.write_eof()
        return response

    engine.behave = talk
    async with gateway.client.post(gateway.url + "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
        await asyncio.wait_for(full.wait(), 30)
        assert sent * len(piece) < 32 << 20
        taken = 0
        async for chunk in answer.content.iter_any():
            taken += len(chunk)
        assert taken == pieces * len(piece)
