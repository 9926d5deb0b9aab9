"""A small real HTTP server in the engine's place, and a gateway in front of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import BILL_COMMENT, BILL_HEADER, CallContext, CallId, ProgramId, decode_call
from autellix_server.engine.supervisor import EngineAddress, EngineState, EngineStatus
from autellix_server.gateway.app import make_apps, make_runner
from autellix_server.gateway.calls import CallLedger
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.member import Engine, Member
from autellix_server.gateway.gateway import Gateway as TheGateway
from autellix_server.gateway.settings import ServeSettings
from autellix_server.stamp import Stamp, decode_stamp

SECRET = b"0123456789abcdef"
KEY = "engine-key"
WORDS = ("to ", "be ", "or ", "not")
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "to be?"}]}


@dataclass(frozen=True)
class Seen:
    """One request as the engine saw it."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def context(self) -> CallContext:
        """Identity of the call."""
        return decode_call(self.header("x-autellix-program")[0], self.header("x-autellix-call")[0])

    @property
    def stamp(self) -> Stamp:
        """What the gateway stamped; raises when it is not signed for this call."""
        program, call = self.header("x-autellix-program")[0], self.header("x-autellix-call")[0]
        return decode_stamp(self.header("x-autellix-stamp")[0], SECRET, program, call)

    def bill(self, service_us: int = 5000) -> CallBill:
        """Return a bill such as the engine plugin makes."""
        time = TimeSplit({"admission": 1000}, prefill_us=2000, decode_us=3000, other_us=500)
        return CallBill(self.context.program, self.context.call, "e0", time, service_us, 7, 3, 4)


Behaviour = Callable[[web.Request, Seen], Awaitable[web.StreamResponse]]


@dataclass
class FakeEngine:
    """The engine; `behave` can be replaced by a test.

    Attributes:
        status: what the gateway is told of it.
        name: of the engine.
        seen: requests, in order.
        service_us: service that its bills charge.
        shown: its ``/server_info``, for which the gateway asks by itself.
        looks: how often it did.
        left: set when a client leaves a call of `stay_silent`.
    """

    status: EngineStatus
    name: str = "e0"
    seen: list[Seen] = field(default_factory=list)
    service_us: int = 5000
    shown: dict[str, Any] = field(default_factory=dict)
    looks: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    behave: Behaviour | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Record the request and answer it; what the gateway asks by itself is not recorded."""
        if request.path == "/server_info":
            assert request.headers["Authorization"] == f"Bearer {KEY}"
            self.looks += 1
            return web.json_response(self.shown)
        headers = [(key.decode(), value.decode("latin-1")) for key, value in request.raw_headers]
        seen = Seen(request.method, request.raw_path, headers, await request.read())
        self.seen.append(seen)
        return await (self.behave or self.answer)(request, seen)

    async def answer(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        """Answer a chat completion, streamed or not, with a bill if the call was identified."""
        if request.path != "/v1/chat/completions":
            return web.json_response({"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        bill = seen.bill(self.service_us).encode() if seen.header("x-autellix-program") else None
        if not json.loads(seen.body).get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS)}
            reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "tiny"}
            headers = {} if bill is None else {BILL_HEADER: bill}
            return web.json_response({**reply, "choices": [{"index": 0, "message": message}]}, headers=headers)
        stream = await start_stream(request)
        for word in WORDS:
            await stream.write(event(word))
        if bill is not None:
            await stream.write(BILL_COMMENT + bill.encode() + b"\n\n")
        await stream.write(b"data: [DONE]\n\n")
        await stream.write_eof()
        return stream

    async def stay_silent(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        """Send one word and then nothing until the client leaves."""
        stream = await start_stream(request)
        await stream.write(event("to "))
        try:
            await asyncio.sleep(60)
        finally:
            self.left.set()
        return stream

    async def die_within_stream(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        """Send one word and drop the connection."""
        stream = await start_stream(request)
        await stream.write(event("to "))
        assert request.transport is not None
        request.transport.close()
        return stream

    async def die_at_once(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        """Drop the connection without an answer."""
        assert request.transport is not None
        request.transport.abort()
        return web.Response()


async def start_stream(request: web.Request) -> web.StreamResponse:
    """Begin a stream of server-sent events."""
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await stream.prepare(request)
    return stream


def event(word: str) -> bytes:
    """Return one chunk of a streamed chat completion."""
    head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "tiny"}
    return b"data: " + json.dumps({**head, "choices": [{"index": 0, "delta": {"content": word}}]}).encode() + b"\n\n"


def ready(url: str, secret: bytes | None = SECRET, name: str = "e0", models: tuple[str, ...] = ()) -> EngineStatus:
    """Return the status of an engine that is reached at `url`."""
    return EngineStatus(EngineState.READY, "ready", EngineAddress(name, url, KEY, secret), pid=1, models=models)


@asynccontextmanager
async def running_engine(
    secret: bytes | None = SECRET, name: str = "e0", models: tuple[str, ...] = ()
) -> AsyncIterator[FakeEngine]:
    """Run a fake engine; `secret` is `None` for one that is not ours."""
    engine = FakeEngine(ready("http://127.0.0.1:0", secret), name)
    server = web.Server(engine.handle, handler_cancellation=True, auto_decompress=False)  # type: ignore[arg-type]
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    engine.status = ready(f"http://127.0.0.1:{runner.addresses[0][1]}", secret, name, models)
    try:
        yield engine
    finally:
        await runner.cleanup()


@dataclass
class Clock:
    """Seconds, moved by hand."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@dataclass(frozen=True)
class Gateway:
    """A running gateway and a client for it."""

    url: str
    fleet: Fleet
    ledger: CallLedger
    client: aiohttp.ClientSession
    clock: Clock

    async def json(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Make a request and return status and JSON."""
        async with self.client.request(method, self.url + path, **options) as response:
            return response.status, await response.json()

    def program(self, name: str) -> Any:
        """Return a row of the table."""
        return self.ledger.table.get(ProgramId(name))


@asynccontextmanager
async def running_gateway(
    engine: Engine | Sequence[Engine],
    clock: Clock | None = None,
    environ: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Gateway]:
    """Run a gateway in front of one or more engines with the settings given."""
    engines = engine if isinstance(engine, Sequence) else [engine]
    options = ServeSettings(**settings)
    clock = clock or Clock()
    made = TheGateway(options, environ=environ or {}, clock=clock)
    for one in engines:
        made.fleet.add(Member(one))
    runner = make_runner(make_apps(made).main)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            yield Gateway(f"http://127.0.0.1:{runner.addresses[0][1]}", made.fleet, made.ledger, client, clock)
    finally:
        await runner.cleanup()


def identity(program: str = "p1", call: str = "0.0", **fields: str) -> dict[str, str]:
    """Return the identity headers of a call."""
    more = "".join(f";{key}={value}" for key, value in fields.items())
    return {"x-autellix-program": program, "x-autellix-call": f"v1;s=a;t=0;c={CallId(call)}{more}"}
