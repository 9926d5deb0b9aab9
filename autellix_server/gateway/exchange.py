"""One request at one engine: sent, answered, and its answer passed on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from typing import Any, Self, TypeVar, overload

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from autellix_sdk.wire import BILL_HEADER
from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.desk import Report, Ticket
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.fleet.priority import PRIORITY_PATHS, with_priority
from autellix_server.gateway.headers import HOP_BY_HOP, NEVER_ADDED, NOT_FOR_THE_ENGINE, forwarded
from autellix_server.gateway.replies import error_event
from autellix_server.gateway.sse import BillScanner
from autellix_server.gateway.usage import UsageReader
from autellix_server.identity import knows_us

_log = logging.getLogger(__name__)

_IDLE_CONNECTION_S = 3.0
"""SGLang closes idle connections after 5 s; ours are dropped earlier, so that a call rarely meets a closed one."""

_CONNECT_LIMIT_S = 5.0
_LARGE_BODY_BYTES = 1 << 20
_SHORT_ANSWER_BYTES = 1 << 20
_EVENT_STREAM = "text/event-stream"
_SERVER_ERROR = 500
_LAST_WORD_S = 1.0
_DIED = ("the engine died before the answer was complete", "engine_died")
_ORIGINAL = web.ResponseKey("original", CIMultiDictProxy[str])


_T = TypeVar("_T")


class EngineDied(Exception):
    """An engine went away before its answer was complete."""


class Upstream:
    """The connections to all engines. An asynchronous context."""

    session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_CONNECTION_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_LIMIT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=NEVER_ADDED,
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.session.close()


class Exchange:
    """One request at one engine. Run once.

    Args:
        upstream: connections.
        request: the client's.
        body: its body.
        address: the engine.
        clock: seconds, never going back.
        ticket: of a call; `None` for a request that runs no model.
    """

    def __init__(
        self,
        upstream: Upstream,
        request: web.Request,
        body: bytes,
        address: EngineAddress,
        clock: Callable[[], float],
        ticket: Ticket | None = None,
    ) -> None:
        self._upstream = upstream
        self._request = request
        self._body = body
        self._address = address
        self._clock = clock
        self._ticket = ticket
        self._began_s = clock()
        self._first_byte_s: float | None = None
        self._total_s: float | None = None
        self._status: int | None = None
        self._failure: str | None = None
        # An engine of ours tells tokens in its bill.
        self._usage = UsageReader() if ticket is not None and address.secret is None else None

    @property
    def report(self) -> Report:
        """What became of it, as far as it got."""
        usage = None if self._usage is None else self._usage.usage()
        return Report(self._failure, self._first_byte_s, self._total_s, self._status, usage)

    @overload
    async def run(self) -> web.StreamResponse: ...
    @overload
    async def run(self, *, pass_over: int) -> web.StreamResponse | None: ...
    async def run(self, *, pass_over: int | None = None) -> web.StreamResponse | None:
        """Have the engine answer, and pass its answer on.

        Args:
            pass_over: status of an answer that is not passed on; then nothing is returned.

        Raises:
            EngineDied: it did not answer, and nothing was passed on.
            Interruption: the call was interrupted, and nothing was passed on.
        """
        # Nothing of ours goes to, and no bill is believed from, an engine that is not ours.
        identity = {} if self._ticket is None else self._ticket.headers
        headers = forwarded(self._request.headers, NOT_FOR_THE_ENGINE | identity.keys())
        headers.update(identity)
        if self._address.key:
            headers[hdrs.AUTHORIZATION] = f"Bearer {self._address.key}"
        body = self._body
        priority = None if self._ticket is None else self._ticket.priority
        if priority is not None and self._request.path in PRIORITY_PATHS and hdrs.CONTENT_ENCODING not in headers:
            body = with_priority(body, priority)
        async with await self._guarded(self._send(headers, body)) as answer:
            if answer.status == pass_over:
                return None
            self._status = answer.status
            if answer.status >= _SERVER_ERROR:
                self._failure = f"status {answer.status}"
            bills = None if self._address.secret is None else self._ticket
            return await self._relay(answer, bills)

    async def _send(self, headers: CIMultiDict[str], body: bytes) -> aiohttp.ClientResponse:
        """Send the request, once more when a kept connection turns out to be closed (the body is still at hand)."""
        url = URL(self._address.url + self._request.raw_path, encoded=True)
        for attempt in (1, 2):
            try:
                return await self._upstream.session.request(
                    self._request.method, url, headers=headers, data=_payload(body), allow_redirects=False
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if attempt == 2 or isinstance(error, aiohttp.ClientConnectorError):
                    raise
        raise AssertionError("unreachable")

    async def _relay(self, answer: aiohttp.ClientResponse, bills: Ticket | None) -> web.StreamResponse:
        """Pass the engine's answer on; a bill is expected if there is somebody to charge it."""
        headers = forwarded(answer.headers, HOP_BY_HOP)
        if answer.content_type == _EVENT_STREAM:
            return await self._relay_stream(answer, headers, bills)
        if self._request.method != hdrs.METH_HEAD and 0 < (answer.content_length or 0) <= _SHORT_ANSWER_BYTES:
            return await self._relay_whole(answer, headers, bills)
        if bills is not None:
            await _settle_header(headers, bills)
        response = _relayed(web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers), answer)
        await response.prepare(self._request)
        try:
            with self._interruptible():
                while chunk := await self._next_chunk(answer):
                    await response.write(chunk)
        except (EngineDied, Interruption) as death:
            # Without the promised end the client sees that the body is cut short.
            self._fail(death)
            _close_connection(self._request)
            return response
        self._total_s = self._clock() - self._began_s
        await response.write_eof()
        return response

    async def _relay_whole(
        self, answer: aiohttp.ClientResponse, headers: CIMultiDict[str], bills: Ticket | None
    ) -> web.StreamResponse:
        """Pass on a short answer in one piece, head and body: one system call less, and all of it or nothing."""
        body = await self._guarded(answer.read())
        self._total_s = self._clock() - self._began_s
        if bills is not None:
            await _settle_header(headers, bills)
        if self._usage is not None:
            self._usage.whole(body)
        return _relayed(web.Response(status=answer.status, reason=answer.reason, headers=headers, body=body), answer)

    async def _relay_stream(
        self, answer: aiohttp.ClientResponse, headers: CIMultiDict[str], bills: Ticket | None
    ) -> web.StreamResponse:
        """Pass on server-sent events as they come, with the bill in their midst settled."""
        scanner = None
        if bills is not None and hdrs.CONTENT_ENCODING not in headers:
            scanner = BillScanner(bills.settle if knows_us(self._request.headers) else _silently(bills))
            headers.popall(hdrs.CONTENT_LENGTH, None)  # Our bill may be longer, or left out.
        response = _relayed(web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers), answer)
        await response.prepare(self._request)
        try:
            with self._interruptible():
                while chunk := await self._next_chunk(answer):
                    if self._usage is not None:
                        self._usage.feed(chunk)
                    if ready := await scanner.feed(chunk) if scanner else chunk:
                        await response.write(ready)
                rest = scanner.end() if scanner else b""
            self._total_s = self._clock() - self._began_s
            await response.write_eof(rest)
        except (EngineDied, Interruption) as end:
            self._fail(end)
            answer.close()  # The engine stops now, whether the client reads on or not.
            await self._end_early(response, end)
        return response

    async def _end_early(self, response: web.StreamResponse, end: EngineDied | Interruption) -> None:
        """Tell a client why its stream ends; one that does not read it in time is left."""
        message, code = (str(end), end.code) if isinstance(end, Interruption) else _DIED
        try:
            async with asyncio.timeout(_LAST_WORD_S):
                await response.write_eof(error_event(message, code))
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()

    async def _next_chunk(self, answer: aiohttp.ClientResponse) -> bytes:
        """Return what has come since the last time, nothing at the end."""
        try:
            chunk = await answer.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise EngineDied(error) from error
        if self._first_byte_s is None:
            self._first_byte_s = self._clock() - self._began_s
        return chunk

    async def _guarded(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Return what `work` returns; nothing has been passed on yet, so that its failure is the request's."""
        try:
            with self._interruptible():
                return await work
        except (aiohttp.ClientError, OSError) as error:
            self._fail(error)
            raise EngineDied from error
        except Interruption as reason:
            self._fail(reason)
            raise

    def _interruptible(self) -> AbstractContextManager[None]:
        return nullcontext() if self._ticket is None else self._ticket.interruptible()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, Interruption) and not error.retryable:
            return  # Somebody wanted it: that says nothing about the engine.
        self._failure = str(error) or type(error).__name__
        _log.warning("engine %s failed a request: %s", self._address.name, self._failure)


def _silently(bills: Ticket) -> Callable[[bytes], Awaitable[None]]:
    """Return what charges bills and shows none."""

    async def settle(text: bytes) -> None:
        await bills.settle(text)

    return settle


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
    settled = await ticket.settle(bill[0].encode("utf-8", "surrogateescape")) if bill else None
    if settled is not None:
        headers[BILL_HEADER] = settled.decode("ascii")


def _payload(body: bytes) -> bytes | BytesIO | None:
    """Return the body in the form in which aiohttp's client sends it without blocking the loop."""
    return BytesIO(body) if len(body) > _LARGE_BODY_BYTES else body or None


def _close_connection(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
