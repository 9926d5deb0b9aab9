"""Byte for byte: what a client sends reaches the engine, and what the engine sends reaches the client."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from fake_engine import KEY, SECRET, ready, running_gateway

from autellix_server.engine.supervisor import EngineStatus

BINARY = bytes(range(256)) * 40


@dataclass
class RawEngine:
    """An engine that reads one request off the wire as it is and answers with `reply` as it is."""

    reply: bytes
    request: bytes = b""
    name: str = "e0"
    status: EngineStatus = field(init=False)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(v) for k, v in headers_of(head) if k.lower() == b"content-length"), 0)
        self.request = head + await reader.readexactly(length)
        writer.write(self.reply)
        await writer.drain()
        writer.close()


def headers_of(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the header lines of a message, in order."""
    lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]


@asynccontextmanager
async def raw_engine(reply: bytes, secret: bytes | None) -> AsyncIterator[RawEngine]:
    """Run a raw engine on a loopback port."""
    engine = RawEngine(reply)
    server = await asyncio.start_server(engine.answer, "127.0.0.1", 0)
    engine.status = ready(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", secret)
    try:
        yield engine
    finally:
        server.close()
        await server.wait_closed()


async def exchange(request: bytes, reply: bytes, secret: bytes | None = None) -> tuple[bytes, bytes]:
    """Send raw bytes through a gateway; return what the engine and what the client received."""
    policy = "off" if secret is None else "plas"
    async with raw_engine(reply, secret) as engine, running_gateway(engine, policy=policy) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        received = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
        return engine.request, received


def request(body: bytes, *headers: bytes, method: bytes = b"POST", path: bytes = b"/v1/chat/completions") -> bytes:
    """Return a request that closes its connection."""
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *headers]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


def reply(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """Return an answer of known length."""
    lines = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body])


@pytest.mark.parametrize("secret", [None, SECRET])
async def test_odd_headers_and_binary_bodies_survive_both_ways(secret: bytes | None) -> None:
    """Order, repetition, emptiness, non-ASCII values, escapes in the path, status text; repeated names in one case."""
    sent = [b"X-Odd: a", b"x-oDD: b", b"X-Empty:", b"X-Utf8: \xc3\xa9", b"Content-Type: application/octet-stream"]
    answered = [b"X-Ray: 1", b"x-ray: 2", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"Content-Type: image/png"]
    path = b"/v1/chat/completions?q=%2F%20a&q=%c3%A9&r"
    got, received = await exchange(
        request(BINARY, *sent, path=path), reply(BINARY, *answered, status=b"418 Short And Stout"), secret
    )
    assert got.startswith(b"POST " + path + b" HTTP/1.1\r\n")
    assert got.partition(b"\r\n\r\n")[2] == BINARY
    ours = (b"x-autellix", b"host", b"authorization", b"content-length", b"connection")
    passed = [(k, v) for k, v in headers_of(got) if not k.lower().startswith(ours)]
    assert passed == [(b"X-Odd", b"a"), (b"X-Odd", b"b"), *headers_of(b"\r\n" + b"\r\n".join(sent[2:]))]
    assert (b"Authorization", f"Bearer {KEY}".encode()) in headers_of(got)
    assert received.startswith(b"HTTP/1.1 418 Short And Stout\r\n")
    assert received.partition(b"\r\n\r\n")[2] == BINARY
    kept = [(k, v) for k, v in headers_of(received) if k.lower() not in (b"connection", b"content-length")]
    assert kept == [(b"X-Ray", b"1"), (b"X-Ray", b"2"), *headers_of(b"\r\n" + b"\r\n".join(answered[2:]))]


async def test_compressed_bodies_stay_compressed_both_ways() -> None:
    """Neither side is unpacked, and the encoding is still named."""
    packed = gzip.compress(b'{"model": "tiny"}' * 100)
    encoded = b"Content-Encoding: gzip"
    got, received = await exchange(request(packed, encoded), reply(packed, encoded, b"Content-Type: text/event-stream"))
    for message in (got, received):
        head, _, body = message.partition(b"\r\n\r\n")
        assert body == packed
        assert (b"Content-Encoding", b"gzip") in headers_of(head)


async def test_large_bodies_survive() -> None:
    """Three megabytes each way."""
    large = BINARY * 300
    got, received = await exchange(request(large), reply(large))
    assert got.partition(b"\r\n\r\n")[2] == large
    assert received.partition(b"\r\n\r\n")[2] == large


async def test_hop_by_hop_headers_end_at_the_gateway() -> None:
    """Those of the standard and those that ``Connection`` nominates."""
    lines = [b"Connection: close, X-Hop", b"X-Hop: 1", b"TE: trailers", b"Proxy-Authorization: x", b"X-End: 1"]
    got, _ = await exchange(request(b"{}", *lines), reply(b"{}"))
    names = {name.lower() for name, _ in headers_of(got)}
    assert b"x-end" in names
    assert not names & {b"x-hop", b"te", b"proxy-authorization"}


async def test_a_request_in_chunks_arrives_whole() -> None:
    """The engine gets it with its length."""
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    got, _ = await exchange(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", reply(b"{}"))
    assert got.endswith(b"\r\n\r\nabcde")


@pytest.mark.parametrize(
    ("method", "status", "body"),
    [
        (b"HEAD", b"200 OK", b""),
        (b"DELETE", b"204 No Content", b""),
        (b"OPTIONS", b"200 OK", b"x"),
        (b"PUT", b"200 OK", b""),
    ],
)
async def test_every_method_passes(method: bytes, status: bytes, body: bytes) -> None:
    """Answers without a body end as such."""
    answer = reply(body, status=status) if status != b"204 No Content" else b"HTTP/1.1 204 No Content\r\n\r\n"
    got, received = await exchange(request(b"", method=method, path=b"/v1/models/tiny"), answer)
    assert got.startswith(method + b" /v1/models/tiny HTTP/1.1\r\n")
    assert received.startswith(b"HTTP/1.1 " + status)
    assert received.partition(b"\r\n\r\n")[2] == body


async def test_an_engine_that_is_not_ours_streams_comments_of_any_kind() -> None:
    """What looks like a bill from it is its own affair."""
    stream = b'data: 1\n\n: autellix {"program": "x"}\n\ndata: [DONE]\n\n'
    _, received = await exchange(request(b"{}"), reply(stream, b"Content-Type: text/event-stream"))
    assert received.partition(b"\r\n\r\n")[2] == stream


async def test_the_engine_is_not_asked_to_continue() -> None:
    """``Expect`` is answered by the gateway."""
    got, received = await exchange(request(b"{}", b"Expect: 100-continue"), reply(b"{}"))
    assert b"expect" not in {name.lower() for name, _ in headers_of(got)}
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
