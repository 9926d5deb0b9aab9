"""What a client's connection may cost: heads and bodies that do not come, their size, and how many there may be.

A connection is idle while it waits for a request or for the rest of one; then it is dropped. One with a call is never
idle, however long the engine thinks and however slowly the client reads: then nothing is read from the engine either.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from asyncio import Task, Transport
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from autellix_server.gateway.refusal import RETRY_AFTER_S
from autellix_server.gateway.replies import error_body, error_reply, http_error_reply

_log = logging.getLogger(__name__)

MAX_LINE_BYTES = 8190
"""Of the request line, and of each header; more is a 431."""

MAX_HEADERS = 128
"""More are a 400."""

MAX_HEAD_BYTES = 32 << 10
"""Of all headers together; more is a 431. Engines refuse heads at 64 KiB."""

SLOWEST_BODY_BYTES_S = 100
"""A body that comes more slowly, over the idle limit, counts as one that does not come."""

_LONGEST_LINGER_S = 10.0
"""How long the rest of a body is taken that nobody reads, so that the client gets to reading the answer."""

_OTHER_FILES = 64
"""Descriptors that are no connection of a client's or to an engine for it."""


_CONTINUE = "100-continue"


class StalledBody(TimeoutError):
    """The body of a request stopped coming."""


class Runner(web.AppRunner):
    """Runs an application on sockets, within the limits of this module.

    Args:
        app: the application.
        idle_limit_s: after so many seconds an idle connection is dropped, above 0.
        most_connections: further ones get a 503 at once.
        options: as of `web.AppRunner`.
    """

    def __init__(
        self, app: web.Application, idle_limit_s: float, most_connections: int | None = None, **options: Any
    ) -> None:
        super().__init__(
            app,
            keepalive_timeout=idle_limit_s,
            lingering_time=min(idle_limit_s, _LONGEST_LINGER_S),
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            **options,
        )
        self._idle_limit_s = idle_limit_s
        self._most = connections_that_fit() if most_connections is None else most_connections

    async def _make_server(self) -> web.Server:
        # The application's own server would be this one, with other connections.
        made = await super()._make_server()
        return _Server(made, self._idle_limit_s, self._most, **self._kwargs)


class _Server(web.Server):
    """Makes connections, unless there are too many, and requests, whose bodies it watches.

    Args:
        made: by aiohttp for the same application.
        idle_limit_s, most_connections: as of `Runner`.
        options: as of `web.Server`.
    """

    def __init__(self, made: web.Server, idle_limit_s: float, most_connections: int, **options: Any) -> None:
        super().__init__(self._answer, request_factory=self._watched_request, **options)
        self._handle, self._make = made.request_handler, made.request_factory
        self._idle_limit_s = idle_limit_s
        self._most = most_connections

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: Transport) -> None:
        """Take a connection in, or say that there are too many and drop it."""
        if len(self._connections) < self._most:
            super().connection_made(handler, transport)
            return
        _log.info("a connection is refused, since there are %d", self._most)
        transport.write(_FULL)
        handler.force_close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        # aiohttp looks at this before any middleware, and trips over what is no text.
        if request.headers.get(hdrs.EXPECT, _CONTINUE).lower() != _CONTINUE:
            return error_reply(417, f"the only Expect that is met is {_CONTINUE}", "expectation_failed")
        try:
            return await self._handle(request)
        except web.HTTPException as error:
            return http_error_reply(error)

    def _watched_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: Task[None],
    ) -> web.BaseRequest:
        if not payload.is_eof():
            self._look_later(payload)
        return self._make(message, payload, protocol, writer, task)

    def _look_later(self, payload: StreamReader) -> None:
        timer = self._loop.call_later(self._idle_limit_s, self._look, payload, payload.total_bytes)
        payload.on_eof(timer.cancel)

    def _look(self, payload: StreamReader, had_bytes: int) -> None:
        """Look whether a body has gone on; who waits for one that has not gets `StalledBody`."""
        if payload.total_bytes - had_bytes >= SLOWEST_BODY_BYTES_S * self._idle_limit_s:
            self._look_later(payload)
        elif payload.exception() is None:
            payload.set_exception(StalledBody())


class _Connection(web.RequestHandler):
    """A connection whose errors look like all others of the gateway."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what is no HTTP, or to a request that met a bug of ours; then the connection ends."""
        if isinstance(exc, HttpProcessingError):
            # What is wrong may be in a header with a key, and is not for the log.
            _log.info("a malformed HTTP request was refused: %s", type(exc).__name__)
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if isinstance(exc, LineTooLong) else status
            reply = error_reply(status, exc.message.partition("\n")[0], "malformed_http")
        else:
            super().handle_error(request, status, exc, message)  # logs it
            reply = error_reply(status, "the gateway failed; its log says how", "gateway_failed", kind="server_error")
        reply.force_close()
        return reply


def connections_that_fit() -> int:
    """Return how many clients this process has descriptors for, with one more each for an engine."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else max(1, (files - _OTHER_FILES) // 2)


def _refusal_of_connections() -> bytes:
    body = json.dumps(error_body("the gateway has too many connections", "server_error", "too_many_connections"))
    head = (
        "HTTP/1.1 503 Service Unavailable",
        "Content-Type: application/json; charset=utf-8",
        f"Content-Length: {len(body)}",
        f"Retry-After: {RETRY_AFTER_S}",
        "Connection: close",
    )
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


_FULL = _refusal_of_connections()
