"""Requests of any bytes: the gateway answers, tells engines nothing that clients made up, and goes on."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPResponse

import pytest
from aiohttp import web
from fake_engine import CHAT, KEY, SECRET, FakeEngine, Gateway, Seen, identity
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from served import served

from autellix_server.gateway.connections import MAX_LINE_BYTES
from autellix_server.gateway.headers import CREDENTIALS, TRACE_HEADER
from autellix_server.gateway.proxy import CALL_PATHS
from autellix_server.identity import IDENTITY_HEADERS
from autellix_server.scheduling.table import TableLimits
from autellix_server.stamp import decode_ended

COMPLETIONS = "/v1/chat/completions"
PROGRAMS = "/autellix/v1/programs"
PATHS = (COMPLETIONS,) * 12 + (
    *("/v1/completions", PROGRAMS, f"{PROGRAMS}?all=x", f"{PROGRAMS}/end", f"{PROGRAMS}/good/boost"),
    *(f"{PROGRAMS}/good/timeline", f"{PROGRAMS}/%ff/pause", "/v1/%2e%2e/x", "//", "*"),
)
OURS = ("x-autellix-stamp", "x-autellix-ended", "x-autellix-bill")
TELLING = (
    *IDENTITY_HEADERS,
    *CREDENTIALS,
    *OURS,
    TRACE_HEADER,
    "x-autellix-continue",
    "tracestate",
    "origin",
    "cookie",
)
FRAMING = (
    "host",
    "origin",
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "expect",
)
FRAMING += ("upgrade", "accept-encoding", "range", "te", "trailer")
IDLE_LIMIT_S = 0.3
EXAMPLES = settings(
    max_examples=500, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

known = st.sampled_from(
    (
        *("", "p", "p p", "good", "*", "null", "x" * 64, "x" * 65, "x" * 1024, "x" * 4000, "Bearer " + "x" * 46),
        *("v1;s=a;t=0;c=0.0", "v1;s=a;t=0;c=0.0;n=%ED%A0%80", "v1;s=a;t=9999999;c=0", "v1;s=a;t=0;c=1;p=0.0,0.1"),
        *("v1", "v1;;", "v1;s=a;s=b", "v2;s=a;t=0;c=0", "v1;s=a;t=0;c=0;r=1000", "v1;s=a;t=0;c=2;p=*;r=3;n=%C3%A9"),
        *("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0-0-0", "http://localhost", "http://[::1"),
    )
)
printable = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40)
undecodable = st.binary(max_size=20).map(lambda data: bytes(byte for byte in data if byte >= 0x80))
telling = st.tuples(
    st.sampled_from(TELLING).map(str.encode), known.map(str.encode) | printable.map(str.encode) | undecodable
)
framing = st.tuples(
    st.sampled_from(FRAMING).map(str.encode),
    st.sampled_from([b"chunked", b"gzip", b"100-continue", b"close", b"keep-alive, x-autellix-call", b"websocket"])
    | st.sampled_from(
        [b"-1", b"5", b"0", b"9" * 30, b"bytes=0-1", b"evil.example", b"[::1", b"application/json;", b"/"]
    ),
)
wild = st.tuples(
    st.binary(min_size=1, max_size=20) | st.sampled_from((*TELLING, *FRAMING)).map(str.encode),
    st.binary(max_size=40) | st.sampled_from([b"a\rb", b"\x00", b"x" * (MAX_LINE_BYTES + 1), b"a\r\n b"]),
)
headers = (
    st.lists(telling, max_size=6)
    | st.lists(telling, min_size=1, max_size=4)
    | st.lists(telling, min_size=2, max_size=8)
    | st.lists(telling | framing, max_size=6)
    | st.lists(telling | framing | wild, max_size=6)
)
texts = st.text(st.characters(codec=None), max_size=20)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
fields = st.dictionaries(
    st.sampled_from(["messages", "prompt", "stream", "session_id", "id", "name", "programs", "boosted", "all"]),
    documents | st.just([{"id": "good"}]) | st.sampled_from(["\ud800", "p", True]),
    max_size=5,
)
models = st.sampled_from(["tiny", "huge"] * 10 + ["none", "\ud800", 7])
calls = st.builds(lambda body, model: {**body, "model": model}, fields, models)
bodies = (calls | calls | calls | documents).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)


@dataclass(frozen=True, repr=False)
class World:
    """A gateway and the engines behind it; shown briefly when a test fails."""

    gateway: Gateway
    engines: list[FakeEngine]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A gateway that looks into bodies as well: at their models, and the beginnings of their prompts."""
    with served(("tiny", "huge"), balancer="prefix", idle_limit_s=IDLE_LIMIT_S) as (gateway, engines):
        for engine in engines:
            engine.behave = answer_anything
        yield World(gateway, engines)


async def answer_anything(request: web.Request, seen: Seen) -> web.StreamResponse:
    """Answer a call whatever its body is."""
    return web.json_response({"object": "list", "data": []})


def ask(gateway: Gateway, method: str, data: bytes) -> int:
    """Send bytes on a new connection and return the status of the answer; an error when it is no answer."""
    with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=10) as client:
        client.sendall(data)
        with HTTPResponse(client, method=method) as response:
            response.begin()
            said = response.read()
            if response.status >= 400 and method != "HEAD":
                assert json.loads(said)["error"]["message"], said
            return response.status


def request_of(method: str, path: str, lines: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    """Return a request with headers as given, and those of the usual ones that are not."""
    given = {name.lower() for name, _ in lines}
    usual = [(b"Host", b"localhost"), (b"Content-Type", b"application/json")]
    if b"transfer-encoding" not in given:
        usual.append((b"Content-Length", str(len(body)).encode()))
    told = [line for line in usual if line[0].lower() not in given] + lines
    head = b"".join(name + b": " + value + b"\r\n" for name, value in told)
    return f"{method} {path} HTTP/1.1\r\n".encode() + head + b"\r\n" + body


@EXAMPLES
@example("POST", COMPLETIONS, [], b'{"model": "tiny", "session_id": "\\ud800"}')
@example("POST", COMPLETIONS, [(b"expect", b"\x80")], b"")
@given(
    method=st.sampled_from(["POST"] * 16 + ["GET", "PUT", "HEAD", "OPTIONS"]),
    path=st.sampled_from(PATHS),
    lines=headers,
    body=bodies,
)
def test_any_headers_and_bodies_are_answered(
    world: World, method: str, path: str, lines: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """With no error of the gateway's own; the next call, a good one, is served and charged to its program."""
    gateway, engines = world.gateway, world.engines
    assert ask(gateway, method, request_of(method, path, lines, body)) < 500
    good = json.dumps(CHAT).encode()
    named = [(name.encode(), value.encode()) for name, value in identity("good").items()]
    assert ask(gateway, "POST", request_of("POST", COMPLETIONS, named, good)) == 200
    for engine in engines:
        for seen in engine.seen:
            check_told(seen)
        engine.seen.clear()


def check_told(seen: Seen) -> None:
    """Check that of what an engine was told nothing that it believes is a client's."""
    assert seen.header("authorization") == [f"Bearer {KEY}"]
    assert seen.header("x-api-key") == seen.header("api-key") == seen.header("x-autellix-bill") == []
    if seen.method == "POST" and seen.path.partition("?")[0] in CALL_PATHS:
        assert len(seen.header("x-autellix-program")) == len(seen.header("x-autellix-call")) == 1
        assert seen.stamp
    else:
        assert seen.header("x-autellix-stamp") == []
    for ended in seen.header("x-autellix-ended"):
        assert decode_ended(ended, SECRET)


def test_what_was_left_behind_is_gone_by_lease(world: World) -> None:
    """No call is in flight, and programs that nobody meant end as others do."""
    table, clock = world.gateway.ledger.table, world.gateway.clock
    assert not any(row.calls for row in table)
    assert all(not member.calls for member in world.gateway.fleet)
    clock.now_s += TableLimits().lease_s + 1
    until(lambda: len(table) == 0)


def until(happened: Callable[[], bool]) -> None:
    """Wait for what the gateway does by itself, about once a second."""
    for _ in range(500):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("it has not happened in 5 s")
