"""HTTP hooks and middleware on a fake ASGI application: identity in, bill out, and nothing else changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from autellix_sdk.bill import decode_bill
from autellix_sdk.wire import BILL_COMMENT, BILL_HEADER, CALL_HEADER, PROGRAM_HEADER, STAMP_HEADER, ProgramId
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.policies.attained import Plas
from autellix_server.scheduling.shares import NO_TENANT, TenantStanding
from autellix_server.sglang_plugin.http import BillMiddleware, HttpHooks
from autellix_server.sglang_plugin.records import CallTag, RequestRecord, read_tag
from autellix_server.sglang_plugin.settings import PluginSettings
from autellix_server.stamp import ENDED_HEADER, EndedProgram, Stamp, encode_ended

SECRET = b"0123456789abcdef"
CALL = "v1;s=a;t=0;c=0.{}"
Headers = dict[str, str]


class Engine:
    """A fake engine behind the middleware: one HTTP request makes requests that take `decode_us` each."""

    def __init__(self, *, secret: bytes | None = None, stream: list[bytes] | None = None, decode_us: int = 700) -> None:
        self.now_us = 50_000_000
        self.tags: list[CallTag] = []
        self._stream = stream
        self._decode_us = decode_us
        settings = PluginSettings(Plas(geometric_levels()), "e7", secret)
        self.hooks = HttpHooks(settings, self._attach, lambda: self.now_us)
        self._middleware = BillMiddleware(self._app, self.hooks)

    def _attach(self, hints: Any, tag: CallTag) -> Any:
        self.tags.append(tag)
        return hints

    async def _responses(self, *_: Any) -> AsyncIterator[Any]:
        arrived_us = self.now_us + 10
        self.now_us = arrived_us + self._decode_us
        record = RequestRecord(
            self.tags[-1].program,
            self.tags[-1].call,
            arrived_us,
            self.now_us,
            {},
            0,
            self._decode_us,
            5,
            2,
            1,
            0,
            7,
            0,
            (1, 1),
        )
        yield {"text": "hi", "meta_info": {"id": "r", "autellix": [record.to_wire()]}}

    async def _app(self, scope: Any, receive: Any, send: Callable[[Any], Any]) -> None:
        request = SimpleNamespace(state=SimpleNamespace(**scope["state"]), headers=scope["fake_headers"])

        async def generate(manager: Any, obj: Any, request: Any) -> AsyncIterator[Any]:
            async for response in self.hooks.wait_response(self._responses, manager, obj, request):
                yield response

        if scope["path"] != "/health":
            async for response in self.hooks.generate(generate, None, SimpleNamespace(kv_hints=None), request):
                assert response["meta_info"] == {"id": "r"}
        self.now_us += 5
        kind = b"application/json" if self._stream is None else b"text/event-stream; charset=utf-8"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for chunk in self._stream or []:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def call(self, headers: Headers, path: str = "/v1/completions") -> tuple[dict[bytes, bytes], bytes]:
        """Send one request; return response headers and body."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self._middleware({"type": "http", "path": path, "fake_headers": headers}, None, send)  # type: ignore[arg-type]
        return dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


def ours(call: int = 0, program: str = "p") -> Headers:
    """The headers our SDK sends."""
    return {PROGRAM_HEADER: program, CALL_HEADER: CALL.format(call)}


async def test_plain_response_carries_the_bill_as_a_header() -> None:
    """Parts add up to the wall time seen by the middleware; what is not the scheduler's is `other`."""
    headers, _ = await Engine().call(ours())
    bill = decode_bill(headers[BILL_HEADER.encode()])
    assert (bill.program, bill.call, bill.engine, bill.level) == ("p", "0.0", "e7", (1, 1))
    assert (bill.time.decode_us, bill.time.other_us, bill.time.wall_us) == (700, 15, 715)
    assert (bill.prompt_tokens, bill.cached_tokens, bill.output_tokens, bill.swapped_tokens) == (5, 2, 1, 7)


@pytest.mark.parametrize(
    "stream",
    [
        [b"data: {}\n\n", b"data: [DONE]\n\n"],
        [b"data: {}\n\ndata: [DONE]\n\n"],
        [b'data: {"content":"data: [DONE]"}\n\n', b"data: [DONE]\n\n"],
        [b"event: message_stop\ndata: {}\n\n"],
    ],
)
async def test_stream_carries_the_bill_as_a_comment_just_before_done(stream: list[bytes]) -> None:
    """The comment stands before the end marker, or at the end where there is none; other bytes are as they were."""
    headers, body = await Engine(stream=stream).call(ours())
    assert BILL_HEADER.encode() not in headers
    before, comment, after = body.partition(BILL_COMMENT)
    line, _, rest = after.partition(b"\n\n")
    assert comment
    assert decode_bill(line).time.decode_us == 700
    assert before + rest == b"".join(stream)
    assert rest in (b"", b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("header", "shown"),
    [({}, False), ({BILL_HEADER: "1"}, True), ({PROGRAM_HEADER: "p"}, True), ({CALL_HEADER: CALL.format(0)}, True)],
)
async def test_stream_shows_its_bill_to_clients_that_know_us(header: Headers, shown: bool) -> None:
    """Others may not skip comments. All are charged, as the next call of their session shows."""
    engine = Engine(stream=[b"data: {}\n\n", b"data: [DONE]\n\n"], decode_us=2_000_000)
    session = {"x-session-id": "s7"}
    _, body = await engine.call(session | header)
    assert (BILL_COMMENT in body, body.startswith(b"data: {}"), body.endswith(b"data: [DONE]\n\n")) == (
        shown,
        True,
        True,
    )
    if not shown:
        await engine.call(session)
        assert [tag.base_service_us for tag in engine.tags] == [0, 2_000_000]


async def test_request_that_runs_nothing_carries_no_bill() -> None:
    """Health checks and the like stay as they are."""
    headers, _ = await Engine().call(ours(), path="/health")
    assert BILL_HEADER.encode() not in headers


async def test_own_table_passes_attained_service_on_to_the_next_call() -> None:
    """Without a gateway the engine keeps the account, and a client's stamp is not believed."""
    engine = Engine(decode_us=2_000_000)
    for call in range(3):
        await engine.call(ours(call) | {STAMP_HEADER: Stamp().encode(SECRET, "p", CALL.format(call))})
    await engine.call(ours(program="other"))
    assert [tag.base_service_us for tag in engine.tags] == [0, 2_000_000, 4_000_000, 0]


async def test_stamp_of_the_gateway_is_believed_and_a_forged_one_is_not() -> None:
    """With a shared secret the gateway's account decides; a wrong signature falls back to our own table."""
    engine = Engine(secret=SECRET)
    tenant = TenantStanding("acme", 500_000, 3.0)
    stamp = Stamp(3_000_000, tenant=tenant)
    await engine.call(ours() | {STAMP_HEADER: stamp.encode(SECRET, "p", CALL.format(0))})
    await engine.call(ours(1) | {STAMP_HEADER: stamp.encode(b"x" * 16, "p", CALL.format(1))})
    assert [(tag.base_service_us, tag.tenant) for tag in engine.tags] == [(3_000_000, tenant), (0, NO_TENANT)]
    assert read_tag(engine.tags[0].to_wire()) == engine.tags[0]


@pytest.mark.parametrize("headers", [{}, {PROGRAM_HEADER: "a b", CALL_HEADER: "junk"}, {CALL_HEADER: "x" * 5000}])
async def test_call_without_usable_identity_runs_as_its_own_program(headers: Headers) -> None:
    """Missing and hostile headers change nothing for the client, and never share an account."""
    engine = Engine(decode_us=2_000_000)
    bills = [decode_bill((await engine.call(headers))[0][BILL_HEADER.encode()]) for _ in range(2)]
    assert bills[0].program != bills[1].program
    assert [tag.base_service_us for tag in engine.tags] == [0, 0]


async def test_scheduler_is_told_what_kind_of_program_and_how_long_it_waited() -> None:
    """The SDK's name is the class; waiting comes from the gateway's stamp."""
    engine = Engine(secret=SECRET)
    call = CALL.format(0) + ";n=react"
    stamp = Stamp(1_000, base_wait_us=9_000).encode(SECRET, "p", call)
    await engine.call({PROGRAM_HEADER: "p", CALL_HEADER: call, STAMP_HEADER: stamp})
    (tag,) = engine.tags
    assert (tag.base_service_us, tag.base_wait_us, tag.program_class) == (1_000, 9_000, "react")


async def test_scheduler_is_told_of_programs_that_ended_once() -> None:
    """By the gateway, whose word counts with a stamp only; or by our own table."""
    ended = (EndedProgram(ProgramId("gone"), "react", 5_000),)
    engine = Engine(secret=SECRET)
    headers = ours() | {STAMP_HEADER: Stamp().encode(SECRET, "p", CALL.format(0))}
    await engine.call(headers | {ENDED_HEADER: encode_ended(ended, SECRET)})
    await engine.call(headers)
    await engine.call(headers | {ENDED_HEADER: encode_ended(ended, b"another secret!!")})
    await engine.call({})  # a program of its own, in our own table
    await engine.call(ours())
    assert [tag.ended for tag in engine.tags[:4]] == [ended, (), (), ()]
    assert [program.service_us for program in engine.tags[4].ended] == [700]
