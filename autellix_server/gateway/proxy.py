"""The hot path: everything under /v1 goes to an engine and back byte for byte, apart from identity and bill."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from urllib.parse import unquote

from aiohttp import hdrs, web

from autellix_server.balancing.prefix import prompt_blocks
from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.desk import UNANSWERED, CallRequest, Desk, model_in, streamed_in
from autellix_server.gateway.exchange import EngineDied, Exchange, Upstream
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.refusal import Refused, unavailable
from autellix_server.gateway.replies import error_reply, refused_reply
from autellix_server.identity import session_in

_CLIENT_LEFT = 499

CALL_PATHS = frozenset(
    f"/v1/{name}"
    for name in (
        "audio/transcriptions",
        "audio/translations",
        "chat/completions",
        "chat/completions/batch",
        "classify",
        "completions",
        "decisions",
        "embeddings",
        "messages",
        "rerank",
        "reranking",
        "responses",
        "score",
        "systemone",
    )
)
"""Paths whose POST runs the model and so is a call of a program."""

WITHHELD_PATHS = frozenset({"/v1/loads", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
"""Engine endpoints under /v1 that are not for clients: all tenants' load, and (vLLM's) what the engine serves."""


class Proxy:
    """Sends requests on to engines. One per process; lives on the event loop, within `lifetime`.

    Args:
        desk: decides about calls.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._upstream = Upstream()

    async def lifetime(self, app: web.Application) -> AsyncIterator[None]:
        """Hold the connections to the engines while the application runs; for its `cleanup_ctx`."""
        async with self._upstream:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request under /v1."""
        arrived_s = self._desk.clock()
        path = unquote(request.raw_path.partition("?")[0])
        if not _is_ours(path) or "#" in request.raw_path:
            return error_reply(404, f"there is no {path!a} here", "not_found")
        body = await request.read()
        reads = self._desk.reads
        model = model_in(body) if reads.models else None
        try:
            if request.method == hdrs.METH_POST and path in CALL_PATHS:
                prefix = prompt_blocks(body, model or "") if reads.prefixes else ()
                session = session_in(body)
                streamed = streamed_in(body)
                asked = CallRequest(path, request.headers, len(body), model, streamed, session, prefix, arrived_s)
                return await self._call(request, body, asked)
            return await self._resource(request, body, await self._desk.resources(request.headers, model))
        except EngineDied:
            return refused_reply(unavailable(UNANSWERED))
        except Interruption as reason:
            return error_reply(503 if reason.retryable else 409, str(reason), reason.code, kind="server_error")
        except Refused as refusal:
            return refused_reply(refusal)
        except ConnectionResetError:
            # A write has met the closed connection before its end cancelled us. Nobody reads the reply.
            return web.Response(status=_CLIENT_LEFT)

    async def _call(self, request: web.Request, body: bytes, asked: CallRequest) -> web.StreamResponse:
        """Run a call at the engine that it is given; once more at another one if that does not answer."""
        ticket = await self._desk.admit(asked)
        exchange = Exchange(self._upstream, request, body, ticket.address, self._desk.clock, ticket)
        try:
            try:
                return await exchange.run()
            except (EngineDied, Interruption) as failure:
                if isinstance(failure, Interruption) and not failure.retryable:
                    raise
            await ticket.move(exchange.report)
            exchange = Exchange(self._upstream, request, body, ticket.address, self._desk.clock, ticket)
            return await exchange.run()
        finally:
            ticket.close(exchange.report)

    async def _resource(self, request: web.Request, body: bytes, engines: list[EngineAddress]) -> web.StreamResponse:
        """Ask engines in turn for what one of them has: a model, a stored response."""
        *others, last = engines
        for address in others:
            exchange = Exchange(self._upstream, request, body, address, self._desk.clock)
            try:
                found = await exchange.run(pass_over=HTTPStatus.NOT_FOUND)
            except EngineDied:
                self._desk.failed(address)
                continue
            if found is not None:
                return found
        try:
            return await Exchange(self._upstream, request, body, last, self._desk.clock).run()
        except EngineDied:
            self._desk.failed(last)
            raise


def _is_ours(path: str) -> bool:
    """Return whether a decoded path is one that clients may ask an engine for.

    Paths that somebody on the way may take for another one are not: a slash too many, for which engines redirect the
    client to their own, private address, and dots.
    """
    odd = {"", ".", ".."}.intersection(path.split("/")[1:])
    return path.startswith("/v1/") and not odd and path not in WITHHELD_PATHS
