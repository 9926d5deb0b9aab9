"""Handlers of the calls: the OpenAI API, with the faults that befall a call in it."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Mapping

from aiohttp import hdrs, web

from autellix_sdk.errors import UsageError
from autellix_sdk.wire import BILL_HEADER
from autellix_server.mock_engine.condition import Condition
from autellix_server.mock_engine.engine import MockEngine, RunningCall
from autellix_server.mock_engine.faults import ENGINE_KINDS, Fault, FaultBox
from autellix_server.mock_engine.replies import DONE, Reply, error_body
from autellix_server.mock_engine.requests import Ask, ChatBody, CompletionBody, read_body

_EVENT_STREAM = {hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8"}
_JSON = "application/json"
_GARBAGE = b'{"id": "garbage", "choices": [{"index": 0, "mess'


class CallsApi:
    """Answers completions. One event loop.

    Args:
        engine: computes.
        model_name: what the model is called.
        faults: which call gets which fault.
        condition: takes the faults that befall the engine.
    """

    def __init__(self, engine: MockEngine, model_name: str, faults: FaultBox, condition: Condition) -> None:
        self._engine = engine
        self._model_name = model_name
        self._faults = faults
        self._condition = condition

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/chat/completions``."""
        return await self._serve(request, ChatBody)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/completions``."""
        return await self._serve(request, CompletionBody)

    async def _serve(self, request: web.Request, kind: type[ChatBody] | type[CompletionBody]) -> web.StreamResponse:
        arrived_s = self._engine.clock.read().wall_s
        body = await request.read()
        try:
            ask = read_body(body, kind)
        except UsageError as error:
            return _refusal(400, str(error))
        fault = self._take_fault()
        if fault is not None and fault.kind != "cut":
            return await _misbehave(request, ask, fault)
        try:
            call = self._engine.arrive(request.headers, ask, arrived_s)
        except UsageError as error:
            return _refusal(400, str(error))
        reply = Reply(ask, uuid.uuid4().hex, self._model_name, int(time.time()), call.words)
        cut_after = None if fault is None else int(fault["tokens"])
        try:
            if ask.stream:
                return await self._stream(request, call, reply, cut_after)
            return await self._whole(request, call, reply, cut=fault is not None)
        finally:
            self._engine.leave(call)

    def _take_fault(self) -> Fault | None:
        """Return the fault of the call that arrives now; one of the engine's takes place, and the call goes on."""
        fault = self._faults.draw()
        if fault is None or fault.kind not in ENGINE_KINDS:
            return fault
        self._condition.befall(fault)
        return None

    async def _whole(self, request: web.Request, call: RunningCall, reply: Reply, *, cut: bool) -> web.StreamResponse:
        await call.live.more()
        headers = {BILL_HEADER: self._engine.finish(call).encode()}
        body = reply.whole(call.cached_tokens)
        if not cut:
            return web.Response(body=body, content_type=_JSON, headers=headers)
        response = web.StreamResponse(headers={**headers, hdrs.CONTENT_TYPE: _JSON})
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        _hang_up(request)
        return response

    async def _stream(
        self, request: web.Request, call: RunningCall, reply: Reply, cut_after: int | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=_EVENT_STREAM)
        await response.prepare(request)
        await response.write(reply.opening())
        last, sent = len(call.words) if cut_after is None else min(cut_after, len(call.words)), 0
        while sent < last:
            tokens = min(await call.live.more(), last)
            await response.write(reply.tokens(sent, tokens))
            sent = tokens
        if cut_after is not None:
            _hang_up(request)
            return response
        await response.write_eof(reply.closing(call.cached_tokens, self._engine.finish(call)))
        return response


async def _misbehave(request: web.Request, ask: Ask, fault: Fault) -> web.StreamResponse:
    """Do what `fault` says in place of an answer."""
    if fault.kind == "refuse":
        headers = {"Retry-After": str(math.ceil(fault["seconds"]))}
        return _refusal(int(fault["status"]), "this is a fault on demand", headers)
    if fault.kind == "garbage":
        if ask.stream:
            return web.Response(body=b"data: " + _GARBAGE + b"\n\n" + DONE, headers=_EVENT_STREAM)
        return web.Response(body=_GARBAGE, content_type=_JSON)
    if fault.kind == "hang":
        await asyncio.Event().wait()  # Until the client leaves, which cancels us.
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(error_body(message, status), status=status, headers=headers)


def _hang_up(request: web.Request) -> None:
    """Close the connection after what was written."""
    if request.transport is not None:
        request.transport.close()
