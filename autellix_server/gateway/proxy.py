"""The hot path: everything under /v1 goes to the engine and back byte for byte, apart from identity and bill."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Protocol
from urllib.parse import unquote

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from autellix_sdk.wire import BILL_HEADER, STAMP_HEADER
from autellix_server.engine.supervisor import EngineAddress, EngineStatus
from autellix_server.gateway.calls import CallLedger, OpenCall
from autellix_server.gateway.replies import engine_unavailable, error_event, error_reply
from autellix_server.gateway.sse import BillScanner
from autellix_server.stamp import ENDED_HEADER

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

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
NOT_FOR_THE_ENGINE = HOP_BY_HOP | {
    "host",
    "content-length",
    "expect",
    "authorization",
    "x-api-key",
    "api-key",
    STAMP_HEADER,
    ENDED_HEADER,
}
"""Request headers that end here: per connection, the client's credentials, and stamps that are not ours."""

NEVER_ADDED = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)
"""Headers that aiohttp's client would add where the original request has none."""

_IDLE_CONNECTION_S = 3.0
"""SGLang closes idle connections after 5 s; ours are dropped earlier, so that a call rarely meets a closed one."""

_CONNECT_LIMIT_S = 5.0
_LARGE_BODY_BYTES = 1 << 20
_SHORT_ANSWER_BYTES = 1 << 20
_EVENT_STREAM = "text/event-stream"
_ORIGINAL = web.ResponseKey("original", CIMultiDictProxy[str])


class Engine(Protocol):
    """The engine behind the gateway, as far as the gateway cares; `engine.supervisor.Supervisor` is one."""

    @property
    def status(self) -> EngineStatus:
        """What is known about it now."""


class _EngineDied(Exception):
    """The engine went away while its answer was being passed on."""


class Proxy:
    """Sends requests on to the engine. One per gateway; lives on the event loop, within `lifetime`.

    Args:
        engine: the engine behind the gateway.
        ledger: where calls are entered.
    """

    _session: aiohttp.ClientSession

    def __init__(self, engine: Engine, ledger: CallLedger) -> None:
        self._engine = engine
        self._ledger = ledger

    async def lifetime(self, app: web.Application) -> AsyncIterator[None]:
        """Hold the connections to the engine while the application runs; for its `cleanup_ctx`."""
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
        arrived_s = self._ledger.clock()
        path = unquote(request.raw_path.partition("?")[0])
        # A slash at the end: the engine would redirect the client to its own, private address.
        if not path.startswith("/v1/") or path in WITHHELD_PATHS or path.endswith("/") or "/../" in f"{path}/":
            return error_reply(404, f"there is no {path!a} here", "not_found")
        body = await request.read()
        status = self._engine.status
        if status.address is None:
            return engine_unavailable(status.detail)
        if request.method != hdrs.METH_POST or path not in CALL_PATHS:
            return await self._forward(request, body, status.address, None)
        call = self._ledger.arrive(request.headers, arrived_s)
        try:
            return await self._forward(request, body, status.address, call)
        finally:
            call.close()

    async def _forward(
        self, request: web.Request, body: bytes, address: EngineAddress, call: OpenCall | None
    ) -> web.StreamResponse:
        # Nothing of ours goes to, and no bill is believed from, an engine that is not ours.
        identity = {} if call is None or address.secret is None else call.headers(address.secret)
        headers = _forwarded(request.headers, NOT_FOR_THE_ENGINE | identity.keys())
        headers.update(identity, Authorization=f"Bearer {address.key}")
        try:
            answer = await self._send(request, headers, body, address)
        except (aiohttp.ClientError, OSError) as error:
            return self._unanswered(error)
        async with answer:
            return await self._relay(request, answer, call if identity else None)

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

    async def _relay(
        self, request: web.Request, answer: aiohttp.ClientResponse, call: OpenCall | None
    ) -> web.StreamResponse:
        """Pass the engine's answer on; `call` is `None` when no bill is expected from this engine."""
        headers = _forwarded(answer.headers, HOP_BY_HOP)
        if call is not None:
            _settle_header(headers, call)
        if answer.content_type == _EVENT_STREAM:
            return await self._relay_stream(request, answer, headers, call)
        if request.method != hdrs.METH_HEAD and 0 < (answer.content_length or 0) <= _SHORT_ANSWER_BYTES:
            return await self._relay_whole(answer, headers)
        response = _relayed(web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers), answer)
        await response.prepare(request)
        try:
            while chunk := await _next_chunk(answer):
                await response.write(chunk)
        except _EngineDied as death:
            # Without the promised end the client sees that the body is cut short.
            self._count_failure(death)
            _close_connection(request)
            return response
        await response.write_eof()
        return response

    async def _relay_whole(self, answer: aiohttp.ClientResponse, headers: CIMultiDict[str]) -> web.StreamResponse:
        """Pass on a short answer in one piece, head and body: one system call less, and all of it or nothing."""
        try:
            body = await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            return self._unanswered(error)
        return _relayed(web.Response(status=answer.status, reason=answer.reason, headers=headers, body=body), answer)

    async def _relay_stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, headers: CIMultiDict[str], call: OpenCall | None
    ) -> web.StreamResponse:
        """Pass on server-sent events as they come, with the bill in their midst settled."""
        scanner = None
        if call is not None and hdrs.CONTENT_ENCODING not in headers:
            scanner = BillScanner(call.settle)
            headers.popall(hdrs.CONTENT_LENGTH, None)  # Our bill may be longer, or left out.
        response = _relayed(web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers), answer)
        await response.prepare(request)
        try:
            while chunk := await _next_chunk(answer):
                if ready := scanner.feed(chunk) if scanner else chunk:
                    await response.write(ready)
            rest = scanner.end() if scanner else b""
        except _EngineDied as death:
            self._count_failure(death)
            rest = error_event("the engine died before the answer was complete")
        await response.write_eof(rest)
        return response

    def _unanswered(self, error: Exception) -> web.Response:
        self._count_failure(error)
        return engine_unavailable("it did not answer the call; if it died it is being restarted")

    def _count_failure(self, error: Exception) -> None:
        self._ledger.counters.engine_failures += 1
        _log.warning("the engine failed a call: %s", error)


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


def _forwarded(headers: CIMultiDictProxy[str], left_out: frozenset[str] | set[str]) -> CIMultiDict[str]:
    """Return the end-to-end headers, in order and with repetitions, but for those `left_out` (lower case)."""
    for nominated in headers.getall(hdrs.CONNECTION, ()):
        left_out = {*left_out, *(name.strip().lower() for name in nominated.split(","))}
    kept: CIMultiDict[str] = CIMultiDict()
    spelling: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower not in left_out:
            # aiohttp's client loses all but the last of repeated headers that differ in case.
            kept.add(spelling.setdefault(lower, name), value)
    return kept


def _settle_header(headers: CIMultiDict[str], call: OpenCall) -> None:
    """Replace the engine's bill by the client's in the headers of an answer that is not streamed."""
    bill = headers.popall(BILL_HEADER, [])
    settled = call.settle(bill[0].encode()) if bill else None
    if settled is not None:
        headers[BILL_HEADER] = settled.decode("ascii")


def _payload(body: bytes) -> bytes | BytesIO | None:
    """Return the body in the form in which aiohttp's client sends it without blocking the loop."""
    return BytesIO(body) if len(body) > _LARGE_BODY_BYTES else body or None


async def _next_chunk(answer: aiohttp.ClientResponse) -> bytes:
    try:
        return await answer.content.readany()
    except (aiohttp.ClientError, OSError) as error:
        raise _EngineDied(error) from error


def _close_connection(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
