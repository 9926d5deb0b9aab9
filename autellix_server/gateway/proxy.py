"""The hot path: everything under /v1 goes to an engine and back byte for byte, apart from identity and bill."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from io import BytesIO
from urllib.parse import unquote

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from autellix_sdk.wire import BILL_HEADER
from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.desk import UNANSWERED, CallRequest, Desk, Ticket, model_in
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.headers import HOP_BY_HOP, NEVER_ADDED, NOT_FOR_THE_ENGINE, forwarded
from autellix_server.gateway.refusal import Refused, unavailable
from autellix_server.gateway.replies import error_event, error_reply, refused_reply
from autellix_server.gateway.sse import BillScanner
from autellix_server.identity import session_in

_log = logging.getLogger(__name__)

CALL_PATHS = frozenset(
    f"/v1/{name}"
    for name in (
        "audio/transcriptions",
        "chat/completions",
        "classify",
        "completions",
        "decisions",
        "embeddings",
        "messages",
        "rerank",
        "responses",
        "score",
        "systemone",
    )
)
"""Paths whose POST runs the model and so is a call of a program."""

WITHHELD_PATHS = frozenset({"/v1/loads"})
"""Engine endpoints under /v1 that tell about all tenants' load."""

_IDLE_CONNECTION_S = 3.0
"""SGLang closes idle connections after 5 s; ours are dropped earlier, so that a call rarely meets a closed one."""

_CONNECT_LIMIT_S = 5.0
_LARGE_BODY_BYTES = 1 << 20
_SHORT_ANSWER_BYTES = 1 << 20
_EVENT_STREAM = "text/event-stream"
_ORIGINAL = web.ResponseKey("original", CIMultiDictProxy[str])


class _EngineDied(Exception):
    """The engine went away before its answer was complete."""


class Proxy:
    """Sends requests on to engines. One per gateway; lives on the event loop, within `lifetime`.

    Args:
        desk: decides about calls.
    """

    _session: aiohttp.ClientSession

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def lifetime(self, app: web.Application) -> AsyncIterator[None]:
        """Hold the connections to the engines while the application runs; for its `cleanup_ctx`."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_CONNECTION_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_LIMIT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=NEVER_ADDED,
            auto_decompress=False,
        ) as self._session:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request under /v1."""
        arrived_s = self._desk.clock()
        path = unquote(request.raw_path.partition("?")[0])
        # A slash at the end: the engine would redirect the client to its own, private address.
        if not path.startswith("/v1/") or path in WITHHELD_PATHS or path.endswith("/") or "/../" in f"{path}/":
            return error_reply(404, f"there is no {path!a} here", "not_found")
        body = await request.read()
        model = model_in(body) if self._desk.reads_models else None
        try:
            if request.method == hdrs.METH_POST and path in CALL_PATHS:
                asked = CallRequest(path, request.headers, len(body), model, session_in(body), arrived_s)
                return await self._call(request, body, asked)
            return await self._resource(request, body, await self._desk.resources(model))
        except _EngineDied:
            return refused_reply(unavailable(UNANSWERED))
        except Interruption as reason:
            return error_reply(503 if reason.retryable else 409, str(reason), reason.code, kind="server_error")
        except Refused as refusal:
            return refused_reply(refusal)

    async def _call(self, request: web.Request, body: bytes, asked: CallRequest) -> web.StreamResponse:
        """Run a call at the engine that it is given; once more at another one if that does not answer."""
        ticket = await self._desk.admit(asked)
        try:
            try:
                return await self._at_engine(request, body, ticket.address, ticket)
            except (_EngineDied, Interruption) as failure:
                if isinstance(failure, Interruption) and not failure.retryable:
                    raise
            await ticket.place()
            return await self._at_engine(request, body, ticket.address, ticket)
        finally:
            ticket.close()

    async def _resource(self, request: web.Request, body: bytes, engines: list[EngineAddress]) -> web.StreamResponse:
        """Ask engines in turn for what one of them has: a model, a stored response."""
        *others, last = engines
        for address in others:
            try:
                found = await self._answer(request, body, address)
            except _EngineDied:
                continue
            async with found.response:
                if found.response.status != HTTPStatus.NOT_FOUND:
                    return await self._relay(request, found)
        return await self._at_engine(request, body, last)

    async def _at_engine(
        self, request: web.Request, body: bytes, address: EngineAddress, ticket: Ticket | None = None
    ) -> web.StreamResponse:
        """Have an engine answer, and pass its answer on.

        Raises:
            _EngineDied: it did not answer, and nothing was passed on.
            Interruption: the call was interrupted, and nothing was passed on.
        """
        answer = await self._answer(request, body, address, ticket)
        async with answer.response:
            return await self._relay(request, answer)

    async def _answer(
        self, request: web.Request, body: bytes, address: EngineAddress, ticket: Ticket | None = None
    ) -> _Answer:
        """Send a request to an engine and wait for the head of its answer; raises as `_at_engine` does."""
        # Nothing of ours goes to, and no bill is believed from, an engine that is not ours.
        identity = {} if ticket is None else ticket.headers
        headers = forwarded(request.headers, NOT_FOR_THE_ENGINE | identity.keys())
        headers.update(identity)
        if address.key:
            headers[hdrs.AUTHORIZATION] = f"Bearer {address.key}"
        try:
            with _interruptible(ticket):
                answer = await self._send(request, headers, body, address)
        except (aiohttp.ClientError, OSError) as error:
            self._failed(address, error)
            raise _EngineDied from error
        return _Answer(answer, address, ticket, billed=bool(identity))

    async def _send(
        self, request: web.Request, headers: CIMultiDict[str], body: bytes, address: EngineAddress
    ) -> aiohttp.ClientResponse:
        """Send the request, once more when a kept connection turns out to be closed (the body is still at hand)."""
        url = URL(address.url + request.raw_path, encoded=True)
        for attempt in (1, 2):
            try:
                return await self._session.request(
                    request.method, url, headers=headers, data=_payload(body), allow_redirects=False
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if attempt == 2 or isinstance(error, aiohttp.ClientConnectorError):
                    raise
        raise AssertionError("unreachable")

    async def _relay(self, request: web.Request, answer: _Answer) -> web.StreamResponse:
        """Pass the engine's answer on."""
        original = answer.response
        headers = forwarded(original.headers, HOP_BY_HOP)
        if answer.bills is not None:
            await _settle_header(headers, answer.bills)
        if original.content_type == _EVENT_STREAM:
            return await self._relay_stream(request, answer, headers)
        if request.method != hdrs.METH_HEAD and 0 < (original.content_length or 0) <= _SHORT_ANSWER_BYTES:
            return await self._relay_whole(answer, headers)
        response = _relayed(
            web.StreamResponse(status=original.status, reason=original.reason, headers=headers), original
        )
        await response.prepare(request)
        try:
            with _interruptible(answer.ticket):
                while chunk := await answer.next_chunk():
                    await response.write(chunk)
        except (_EngineDied, Interruption) as death:
            # Without the promised end the client sees that the body is cut short.
            self._failed(answer.address, death)
            _close_connection(request)
            return response
        await response.write_eof()
        return response

    async def _relay_whole(self, answer: _Answer, headers: CIMultiDict[str]) -> web.StreamResponse:
        """Pass on a short answer in one piece, head and body: one system call less, and all of it or nothing."""
        original = answer.response
        try:
            with _interruptible(answer.ticket):
                body = await original.read()
        except (aiohttp.ClientError, OSError) as error:
            self._failed(answer.address, error)
            raise _EngineDied from error
        return _relayed(
            web.Response(status=original.status, reason=original.reason, headers=headers, body=body), original
        )

    async def _relay_stream(
        self, request: web.Request, answer: _Answer, headers: CIMultiDict[str]
    ) -> web.StreamResponse:
        """Pass on server-sent events as they come, with the bill in their midst settled."""
        scanner, original = None, answer.response
        if answer.bills is not None and hdrs.CONTENT_ENCODING not in headers:
            scanner = BillScanner(answer.bills.settle)
            headers.popall(hdrs.CONTENT_LENGTH, None)  # Our bill may be longer, or left out.
        response = _relayed(
            web.StreamResponse(status=original.status, reason=original.reason, headers=headers), original
        )
        await response.prepare(request)
        try:
            with _interruptible(answer.ticket):
                while chunk := await answer.next_chunk():
                    if ready := await scanner.feed(chunk) if scanner else chunk:
                        await response.write(ready)
                rest = scanner.end() if scanner else b""
        except _EngineDied as death:
            self._failed(answer.address, death)
            rest = error_event("the engine died before the answer was complete", "engine_died")
        except Interruption as reason:
            rest = error_event(str(reason), reason.code)
        await response.write_eof(rest)
        return response

    def _failed(self, address: EngineAddress, error: Exception) -> None:
        self._desk.failed(address)
        _log.warning("engine %s failed a call: %s", address.name, error)


class _Answer:
    """An engine's answer that has begun; `bills` is the call's ticket if a bill is expected."""

    def __init__(
        self, response: aiohttp.ClientResponse, address: EngineAddress, ticket: Ticket | None, *, billed: bool
    ) -> None:
        self.response = response
        self.address = address
        self.ticket = ticket
        self.bills = ticket if billed else None

    async def next_chunk(self) -> bytes:
        """Return what has come since the last time, nothing at the end."""
        try:
            return await self.response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise _EngineDied(error) from error


def _interruptible(ticket: Ticket | None) -> AbstractContextManager[None]:
    return nullcontext() if ticket is None else ticket.interruptible()


def _relayed(response: web.StreamResponse, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Mark a response as the engine's, for `drop_added_headers`."""
    response[_ORIGINAL] = answer.headers
    return response


async def drop_added_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Remove what aiohttp adds to a response of the engine's; for the application's `on_response_prepare`."""
    original = response.get(_ORIGINAL)
    if original is not None:
        for name in (hdrs.SERVER, hdrs.DATE, hdrs.CONTENT_TYPE):
            if name not in original:
                response.headers.popall(name, None)


async def _settle_header(headers: CIMultiDict[str], ticket: Ticket) -> None:
    """Replace the engine's bill by the client's in the headers of an answer that is not streamed."""
    bill = headers.popall(BILL_HEADER, [])
    settled = await ticket.settle(bill[0].encode()) if bill else None
    if settled is not None:
        headers[BILL_HEADER] = settled.decode("ascii")


def _payload(body: bytes) -> bytes | BytesIO | None:
    """Return the body in the form in which aiohttp's client sends it without blocking the loop."""
    return BytesIO(body) if len(body) > _LARGE_BODY_BYTES else body or None


def _close_connection(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
