"""Identity in, bill out, and what happens when the engine or the client goes away."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web
from fake_engine import (
    CHAT,
    KEY,
    WORDS,
    Behaviour,
    FakeEngine,
    Gateway,
    Seen,
    identity,
    ready,
    running_engine,
    running_gateway,
)

from autellix_sdk.bill import CallBill, decode_bill
from autellix_server.engine.supervisor import EngineState, EngineStatus
from autellix_server.gateway import exchange
from autellix_server.gateway.calls import stretch

COMPLETIONS = "/v1/chat/completions"


async def chat(
    gateway: Gateway, headers: dict[str, str] | None = None, **more: object
) -> tuple[CallBill | None, bytes]:
    """Make a call; return the bill the client got, from header or comment, and the body."""
    async with gateway.client.post(gateway.url + COMPLETIONS, json={**CHAT, **more}, headers=headers) as response:
        body = await response.read()
        assert response.status == 200
        text = response.headers.get("x-autellix-bill")
        comments = [line for line in body.decode().splitlines() if line.startswith(": autellix ")]
        text = text or (comments[0].removeprefix(": autellix ") if comments else None)
        return decode_bill(text) if text else None, body


@pytest.mark.parametrize("stream", [False, True])
async def test_the_bill_is_the_engines_with_the_gateways_wall_time(engine: FakeEngine, stream: bool) -> None:
    """Only other time grows; the sum is the gateway's wall time exactly, and the program is charged with it."""
    async with running_gateway(engine) as gateway:

        async def take_time(request: web.Request, seen: Seen) -> web.StreamResponse:
            gateway.clock.now_s += 0.5
            return await engine.answer(request, seen)

        engine.behave = take_time
        bill, _ = await chat(gateway, identity(), stream=stream)
        assert bill is not None
        original = engine.seen[0].bill()
        assert bill == stretch(original, bill.time.wall_us)
        assert bill.time.wall_us == 500_000
        row = gateway.program("p1")
        assert (row.completed, row.time, row.service_s, row.wait_s) == (1, bill.time, 0.005, 0.001)
        assert gateway.ledger.counters.uncharged == 0


async def test_the_program_is_charged_before_the_client_sees_the_end(engine: FakeEngine) -> None:
    """The next call, made at once, inherits this one's service."""
    async with running_gateway(engine) as gateway:
        engine.service_us = 3_000_000
        for number in range(2):
            await chat(gateway, identity(call=f"0.{number}"), stream=True)
        assert [seen.stamp.base_service_us for seen in engine.seen] == [0, 3_000_000]
        assert [seen.stamp.base_wait_us for seen in engine.seen] == [0, 1000]


async def test_the_engine_gets_identity_stamp_and_its_own_key(gateway: Gateway, engine: FakeEngine) -> None:
    """The client's credentials and forged stamps end at the gateway."""
    forged = {
        "Authorization": "Bearer mine",
        "x-api-key": "mine",
        "X-Autellix-Stamp": "v1;b=0;w=0;d=0;s=0;k=" + "0" * 32,
    }
    await chat(gateway, {**identity(p="0.8,0.9", n="agent"), **forged})
    seen = engine.seen[0]
    assert (seen.context.program, seen.context.parents, seen.context.name) == ("p1", ("0.8", "0.9"), "agent")
    assert seen.header("authorization") == [f"Bearer {KEY}"]
    assert seen.header("x-api-key") == []
    assert len(seen.header("x-autellix-stamp")) == 1
    assert seen.stamp.base_service_us == 0


async def test_a_malformed_identity_runs_as_its_own_program(
    gateway: Gateway, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """The call is served, a counter rises, one line is logged, and nothing is left in the table."""
    bill, _ = await chat(gateway, {"x-autellix-program": "p1", "x-autellix-call": "v1;s=a"})
    assert bill is not None
    assert bill.program == engine.seen[0].context.program != "p1"
    assert gateway.ledger.counters.malformed_identity == 1
    assert [record.message for record in caplog.records if "own program" in record.message] == [
        "a call runs as its own program: field t of x-autellix-call is missing; it must match [0-9]{1,6}"
    ]
    assert len(gateway.ledger.table) == 0


async def test_sessions_of_other_clients_are_programs(gateway: Gateway, engine: FakeEngine) -> None:
    """Two calls with one session header are one program."""
    for _ in range(2):
        await chat(gateway, {"X-Session-Id": "s7"})
    assert gateway.program("s7").completed == 2
    assert len({seen.context.call for seen in engine.seen}) == 2


async def test_only_calls_that_run_the_model_count(gateway: Gateway, engine: FakeEngine) -> None:
    """Listing models takes no program and carries none."""
    status, models = await gateway.json("GET", "/v1/models", headers=identity())
    assert (status, models["data"][0]["id"]) == (200, "tiny")
    await gateway.json("POST", "/v1/tokenize", json={"prompt": "x"})
    assert gateway.ledger.counters.calls == 0
    assert engine.seen[0].header("x-autellix-stamp") == []


@pytest.mark.parametrize("path", ["/v1/audio/translations", "/v1/chat/completions/batch", "/v1/reranking"])
async def test_no_path_runs_a_model_past_the_accounts(gateway: Gateway, engine: FakeEngine, path: str) -> None:
    """Also those that only some engines have: they go with a stamp, as their program's."""
    assert (await gateway.json("POST", path, json=CHAT, headers=identity()))[0] == 200
    assert (engine.seen[0].stamp.single_call, gateway.program("p1").completed) == (False, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_is_not_ours_gets_and_gives_nothing_of_ours(stream: bool) -> None:
    """With the policy off calls are counted and the answer is the engine's, byte for byte."""
    async with running_engine(secret=None) as engine, running_gateway(engine, policy="off") as gateway:
        bill, body = await chat(gateway, {"x-session-id": "s"}, stream=stream)
        assert bill is None
        assert b"autellix" not in body
        assert not [name for name, _ in engine.seen[0].headers if "autellix" in name.lower()]
        assert gateway.program("s").completed == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("change", [{"program": "other"}, {"call": "9.9"}, {"wall_us": 1}, {"level": 3}])
async def test_a_bill_that_is_not_this_calls_is_dropped(
    engine: FakeEngine, stream: bool, change: dict[str, object]
) -> None:
    """Neither the client nor the table believes it."""

    async def behave(request: web.Request, seen: Seen) -> web.StreamResponse:
        wrong = json.dumps({**json.loads(seen.bill().encode()), **change})
        if not stream:
            return web.json_response({}, headers={"x-autellix-bill": wrong})
        text = f"data: 1\n\n: autellix {wrong}\n\ndata: [DONE]\n\n"
        return web.Response(text=text, content_type="text/event-stream")

    engine.behave = behave
    async with running_gateway(engine) as gateway:
        bill, _ = await chat(gateway, identity(), stream=stream)
        assert bill is None
        counters = gateway.ledger.counters
        # Of a stream something was seen: the time since its first byte, which here is none.
        assert (counters.distrusted_bills, counters.estimated, counters.uncharged) == (1, int(stream), int(not stream))
        assert gateway.program("p1").service_us == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "bill", [b"\xff\xfe", b"{}", b"NaN", b'{"service_us": NaN}', b"[" * 9000, b'{"service_us": -1}', b"9" * 5000, b""]
)
async def test_a_bill_that_is_none_harms_nobody(stream: bool, bill: bytes) -> None:
    """The answer passes; the program has no call in flight and is charged nothing."""
    kind, name = (b"text/event-stream", b"X-Other") if stream else (b"application/json", b"X-Autellix-Bill")
    body = b"data: 1\n\n: autellix " + bill + b"\n\ndata: [DONE]\n\n" if stream else b"{}"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n" + name + b": " + bill[:5000] + b"\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        engine = FakeEngine(ready(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        async with running_gateway(engine) as gateway:
            got, passed = await chat(gateway, identity(), stream=stream)
            assert (got, passed) == (None, b"data: 1\n\n\ndata: [DONE]\n\n" if stream else b"{}")
            assert gateway.ledger.counters.distrusted_bills == 1
            row = gateway.program("p1")
            assert (len(row.calls), row.completed, row.service_us) == (0, 1, 0)


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ({}, 0),
        ({"x-autellix-stamp": "v1"}, 0),
        ({"X-Autellix-Bill": "1"}, 1),
        ({"X-Autellix-Program": "p1"}, 1),
        ({"X-Autellix-Call": "v1;s=a;t=0;c=0.0"}, 1),
    ],
)
async def test_a_stream_shows_its_bill_to_clients_that_know_us(
    gateway: Gateway, engine: FakeEngine, header: dict[str, str], shown: int
) -> None:
    """Others may not skip comments: they see the engine's events alone. All are charged."""
    bill, body = await chat(gateway, {"x-session-id": "s7", **header}, stream=True)
    assert (bill is not None, body.count(b"autellix")) == (bool(shown), shown)
    assert body.count(b"data: ") == len(WORDS) + 1
    assert gateway.ledger.counters.uncharged == gateway.ledger.counters.estimated == 0
    if not shown:
        assert gateway.program("s7").service_us == 5000


async def test_a_second_bill_is_dropped(engine: FakeEngine, gateway: Gateway) -> None:
    """A call is charged once."""

    async def behave(request: web.Request, seen: Seen) -> web.StreamResponse:
        comment = f": autellix {seen.bill().encode()}\n\n"
        return web.Response(text=comment * 2 + "data: [DONE]\n\n", content_type="text/event-stream")

    engine.behave = behave
    _, body = await chat(gateway, identity(), stream=True)
    assert body.count(b": autellix ") == 1
    assert gateway.program("p1").service_us == 5000


async def test_a_client_that_leaves_cancels_its_call(engine: FakeEngine, gateway: Gateway) -> None:
    """The engine notices at once, and the program has no call in flight any more."""
    engine.behave = engine.stay_silent
    async with gateway.client.post(gateway.url + COMPLETIONS, json=CHAT, headers=identity()) as response:
        await response.content.readany()
        assert len(gateway.program("p1").calls) == 1
    await asyncio.wait_for(engine.left.wait(), 5)
    assert (len(gateway.program("p1").calls), gateway.program("p1").completed) == (0, 1)


class Unread(web.StreamResponse):
    """An answer whose client leaves just before its end."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Find the connection closed."""
        assert self._req is not None
        assert self._req.transport is not None
        self._req.transport.close()
        await super().write_eof(data)


async def test_a_client_that_leaves_before_the_last_write_is_no_error(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The write says so before anything else does; the call was answered and is charged."""
    relayed = exchange._relayed

    def unread(response: web.StreamResponse, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        return relayed(Unread(status=response.status, headers=response.headers), answer)

    monkeypatch.setattr(exchange, "_relayed", unread)
    with pytest.raises(aiohttp.ClientPayloadError):
        await chat(gateway, identity(), stream=True)
    assert not [record for record in caplog.records if record.name == "aiohttp.server"]
    assert (gateway.program("p1").completed, gateway.program("p1").service_us) == (1, 5000)


async def test_events_pass_as_they_come(engine: FakeEngine, gateway: Gateway) -> None:
    """The first word is there while the engine still works on the second."""
    engine.behave = engine.stay_silent
    async with gateway.client.post(gateway.url + COMPLETIONS, json={**CHAT, "stream": True}) as response:
        first = await asyncio.wait_for(response.content.readany(), 5)
    assert b'"content": "to "' in first


async def test_an_engine_that_dies_before_the_first_byte_is_a_503(engine: FakeEngine, gateway: Gateway) -> None:
    """Told to come back, in the shape OpenAI clients know; tried once more before that."""
    engine.behave = engine.die_at_once
    async with gateway.client.post(gateway.url + COMPLETIONS, json=CHAT, headers=identity()) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        error = (await response.json())["error"]
    assert (error["type"], error["code"]) == ("server_error", "engine_unavailable")
    assert len(engine.seen) == 2
    assert (gateway.ledger.counters.engine_failures, len(gateway.program("p1").calls)) == (1, 0)


async def test_a_kept_connection_that_was_closed_is_no_failure(engine: FakeEngine, gateway: Gateway) -> None:
    """The engine closes idle connections; a call that meets one is sent again."""
    first = True

    async def behave(request: web.Request, seen: Seen) -> web.StreamResponse:
        nonlocal first
        if first:
            first = False
            return await engine.die_at_once(request, seen)
        return await engine.answer(request, seen)

    engine.behave = behave
    bill, _ = await chat(gateway, identity())
    assert bill is not None


async def test_a_stream_whose_engine_dies_ends_with_an_error_event(engine: FakeEngine, gateway: Gateway) -> None:
    """What was sent stands; then the error; then a proper end."""
    engine.behave = engine.die_within_stream
    async with gateway.client.post(gateway.url + COMPLETIONS, json={**CHAT, "stream": True}) as response:
        body = (await response.read()).decode()
    last = body.strip().split("\n\n")[-1]
    assert WORDS[0] in body
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.partition("data: ")[2])["error"]["code"] == "engine_died"


def half_an_answer(length: int) -> Behaviour:
    """Promise `length` bytes, send a few, and drop the connection."""

    async def behave(request: web.Request, seen: Seen) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(length), "Content-Type": "application/json"})
        await answer.prepare(request)
        await answer.write(b'{"half')
        assert request.transport is not None
        request.transport.close()
        return answer

    return behave


async def test_a_short_answer_whose_engine_dies_is_a_503(engine: FakeEngine, gateway: Gateway) -> None:
    """Nothing of it was passed on yet, so the client can be told."""
    engine.behave = half_an_answer(1000)
    status, reply = await gateway.json("POST", COMPLETIONS, json=CHAT)
    assert (status, reply["error"]["code"]) == (503, "engine_unavailable")
    assert gateway.ledger.counters.engine_failures == gateway.ledger.counters.uncharged == 1


async def test_a_long_answer_whose_engine_dies_is_visibly_cut_short(engine: FakeEngine, gateway: Gateway) -> None:
    """A client must not take half an answer for a whole one."""
    engine.behave = half_an_answer(10_000_000)
    with pytest.raises(aiohttp.ClientPayloadError):
        await chat(gateway, identity())
    assert gateway.ledger.counters.engine_failures == 1


async def test_calls_are_told_to_wait_while_the_engine_starts(engine: FakeEngine) -> None:
    """With the reason, and without a program in the table."""
    engine.status = EngineStatus(EngineState.STARTING, "loading weights")
    async with running_gateway(engine) as gateway:
        async with gateway.client.post(gateway.url + COMPLETIONS, json=CHAT, headers=identity()) as response:
            assert (response.status, "Retry-After" in response.headers) == (503, True)
            assert "loading weights" in (await response.json())["error"]["message"]
        assert gateway.program("p1") is None


async def test_a_body_over_the_limit_is_a_413(engine: FakeEngine) -> None:
    """The engine never sees it."""
    async with running_gateway(engine, max_body_bytes=100) as gateway:
        status, body = await gateway.json("POST", COMPLETIONS, data=b"x" * 101)
        assert (status, body["error"]["code"]) == (413, "request_entity_too_large")
        assert engine.seen == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/loads",
        "/v1/loads/",
        "/v1/%6coads?include=all",
        "/v1/loads#fragment",
        "/v1/chat/completions#fragment",
        "/v1//loads",
        "/v1/./loads",
        "/v1/load_lora_adapter",
        "/v1/../server_info",
        "/v1/%2e%2e/server_info",
        "/v1",
        "/server_info",
        "/flush_cache",
        "/generate",
        "/metrics/",
    ],
)
async def test_engine_endpoints_outside_the_api_are_not_exposed(
    engine: FakeEngine, gateway: Gateway, path: str
) -> None:
    """However they are spelled."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    status = await reader.readline()
    writer.close()
    assert status.split()[1] == b"404"
    assert engine.seen == []
