"""Hooks and middleware in SGLang's HTTP process: identity in, time bill out.

The middleware opens an `HttpCall` for every HTTP request. When the request reaches the tokenizer manager it is
identified and stamped; when engine requests finish their records are collected; when the response is sent the bill goes
with it, as a header or, in a stream, as an SSE comment just before ``data: [DONE]``, where clients stop reading.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import BILL_COMMENT, BILL_HEADER, CallContext, CallId, ProgramId
from autellix_server.identity import Identified, identify, knows_us
from autellix_server.scheduling.shares import NO_TENANT, TenantStanding
from autellix_server.scheduling.table import ActiveCall, ProgramTable
from autellix_server.sglang_plugin.records import CallTag, RequestRecord, critical_path
from autellix_server.sglang_plugin.scheduler import RECORD_KEY
from autellix_server.sglang_plugin.settings import PluginSettings
from autellix_server.stamp import EndedPrograms, believed_ended, believed_stamp

_log = logging.getLogger(__name__)
_US_PER_S = 1_000_000
_EXPIRY_PERIOD_US = 1_000_000
_STATE_KEY = "autellix"
_HEALTH_CHECK = "HEALTH_CHECK"
"""How SGLang's `HEALTH_CHECK_RID_PREFIX` begins the IDs of such requests."""
# At the start of a line only: generated text that contains the words stands inside JSON, on one line.
_DONE = re.compile(rb"^data: \[DONE\]", re.MULTILINE)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]


@dataclass(eq=False, slots=True)
class HttpCall:
    """One HTTP request on its way through the engine.

    Attributes:
        arrived_us: when it reached the middleware.
        identified: who it is; `None` until it reaches the tokenizer manager, and for ever if it never does.
        base_service_us, base_wait_us: its program's attained service and waiting time at arrival.
        single_call: its program is this call alone.
        tenant: where its tenant stands among the others.
        active: its entry in our own program table; `None` when a gateway's stamp made that unnecessary.
        shows_bill: its client expects a bill in a stream.
        records: what the scheduler reported so far.
        bill: the bill sent with the response.
    """

    arrived_us: int
    identified: Identified | None = None
    base_service_us: int = 0
    base_wait_us: int = 0
    single_call: bool = False
    tenant: TenantStanding = NO_TENANT
    active: ActiveCall | None = None
    shows_bill: bool = False
    records: list[RequestRecord] = field(default_factory=list)
    bill: CallBill | None = None


class HttpHooks:
    """The hooks of the HTTP process and the program table it keeps when no gateway does. One event loop, no locks.

    The table lives here, in one place, rather than in the scheduler, of which there is one per tensor-parallel rank.

    Args:
        settings: the plugin's settings.
        attach_tag: puts a call's tag into what the engine sends to its scheduler.
        now_us: monotonic clock in whole microseconds.
    """

    def __init__(
        self, settings: PluginSettings, attach_tag: Callable[[Any, CallTag], Any], now_us: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._attach_tag = attach_tag
        self._now_us = now_us
        self._ended = EndedPrograms()
        self._table = ProgramTable(settings.policy, on_end=self._ended.add)
        self._expired_us = 0

    def open_call(self) -> HttpCall:
        """Return the state of an HTTP request that arrives now."""
        return HttpCall(self._now_us())

    def generate(self, original: Callable[..., Any], manager: Any, obj: Any, request: Any = None) -> Any:
        """AROUND `TokenizerManager.generate_request`: identify the call and tell the scheduler."""
        call = _call_of(request)
        if call is not None and not _is_health_check(obj):
            context = (call.identified or self._identify(call, request.headers)).context
            if hasattr(obj, "kv_hints"):  # embedding requests have none
                obj.kv_hints = self._attach_tag(obj.kv_hints, self._tag(call, context))
        return original(manager, obj, request)

    def wait_response(self, original: Callable[..., Any], manager: Any, obj: Any, request: Any = None) -> Any:
        """AROUND `TokenizerManager._wait_one_response`: take the record out of every engine request's output.

        Each of the several requests that one HTTP call can make passes here. The original is called at once: it picks
        up state that its caller may replace before the first output is awaited.
        """
        return _collect(original(manager, obj, request), _call_of(request))

    def bill_for(self, call: HttpCall) -> CallBill | None:
        """Return the bill as of now, or `None` for a request that ran nothing on the engine."""
        if call.identified is None:
            return None
        context, records = call.identified.context, call.records
        path = critical_path(records)
        time = sum((TimeSplit(r.queued_us, r.prefill_us, r.decode_us) for r in path), TimeSplit())
        wall_us = self._now_us() - call.arrived_us
        return CallBill(
            # As the scheduler saw them, so that the bill proves how far the identity came.
            program=ProgramId(path[0].program) if path else context.program,
            call=CallId(path[0].call) if path else context.call,
            engine=self._settings.engine_name,
            time=time + TimeSplit(other_us=wall_us - time.wall_us),
            service_us=sum(record.service_us for record in records),
            prompt_tokens=sum(record.prompt_tokens for record in records),
            cached_tokens=sum(record.cached_tokens for record in records),
            output_tokens=sum(record.output_tokens for record in records),
            recomputed_tokens=sum(record.recomputed_tokens for record in records),
            swapped_tokens=sum(record.swapped_tokens for record in records),
            preemptions=sum(record.preemptions for record in records),
            level=(path[-1].level[0], path[0].level[1]) if path else (0, 0),
        )

    def close_call(self, call: HttpCall) -> None:
        """Charge the call to its program; the response is complete or was cut short."""
        if call.active is not None:
            self._table.complete(call.active, call.bill or self.bill_for(call), self._now_us() / _US_PER_S)
            call.active = None

    def _tag(self, call: HttpCall, context: CallContext) -> CallTag:
        return CallTag(
            program=context.program,
            call=context.call,
            base_service_us=call.base_service_us,
            base_wait_us=call.base_wait_us,
            program_class=context.name or "",
            single_call=call.single_call,
            tenant=call.tenant,
            ended=self._ended.take(),
        )

    def _identify(self, call: HttpCall, headers: Mapping[str, str]) -> Identified:
        identified = identify(headers, lambda: uuid.uuid4().hex)
        if identified.error is not None:
            _log.warning("call runs as its own program: %s", identified.error)
        call.identified, call.shows_bill = identified, knows_us(headers)
        stamp = believed_stamp(headers, self._settings.secret)
        self._ended.extend(believed_ended(headers, self._settings.secret))
        if stamp is None:
            now_us = self._now_us()
            if now_us - self._expired_us > _EXPIRY_PERIOD_US:
                self._table.expire(now_us / _US_PER_S)
                self._expired_us = now_us
            call.active = self._table.arrive(identified.context, now_us / _US_PER_S, single_call=identified.single_call)
            call.base_service_us = round(call.active.base_service_s * _US_PER_S)
            call.base_wait_us = round(call.active.base_wait_s * _US_PER_S)
            call.single_call = identified.single_call
        else:
            call.base_service_us = stamp.base_service_us
            call.base_wait_us = stamp.base_wait_us
            call.single_call = stamp.single_call
            call.tenant = stamp.tenant
        return identified


class BillMiddleware:
    """Pure ASGI middleware that sends the bill with the response. It changes nothing else.

    Args:
        app: the application inside.
        hooks: keeps the calls.
    """

    def __init__(self, app: Callable[..., Any], hooks: HttpHooks) -> None:
        self._app = app
        self._hooks = hooks

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = self._hooks.open_call()
        scope.setdefault("state", {})[_STATE_KEY] = call
        try:
            await self._app(scope, receive, _BillSender(self._hooks, call, send))
        finally:
            self._hooks.close_call(call)


class _BillSender:
    """The `send` of one response: adds the header, or puts the comment into the stream, once."""

    def __init__(self, hooks: HttpHooks, call: HttpCall, send: Callable[..., Any]) -> None:
        self._hooks = hooks
        self._call = call
        self._send = send
        self._streaming = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.setdefault("headers", [])
            self._streaming = any(
                name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers
            )
            if not self._streaming and (bill := self._take_bill()) is not None:
                message["headers"] = [*headers, (BILL_HEADER.encode(), bill)]
        elif self._streaming and message["type"] == "http.response.body":
            body = message.get("body", b"")
            done = _DONE.search(body)
            if (done or not message.get("more_body", False)) and (bill := self._take_bill()) is not None:
                at = done.start() if done else len(body)
                if self._call.shows_bill:
                    message["body"] = body[:at] + BILL_COMMENT + bill + b"\n\n" + body[at:]
        await self._send(message)

    def _take_bill(self) -> bytes | None:
        if self._call.bill is not None:
            return None
        self._call.bill = self._hooks.bill_for(self._call)
        return None if self._call.bill is None else self._call.bill.encode().encode("ascii")


def _is_health_check(obj: Any) -> bool:
    """Return whether SGLang made up this request to see whether it is alive."""
    rid = getattr(obj, "rid", None)
    return isinstance(rid, str) and rid.startswith(_HEALTH_CHECK)


def _call_of(request: Any) -> HttpCall | None:
    """Return the state that the middleware left on the request; the engine's own requests have none."""
    return None if request is None else getattr(request.state, _STATE_KEY, None)


async def _collect(responses: AsyncGenerator[Any, None], call: HttpCall | None) -> AsyncIterator[Any]:
    async with aclosing(responses):
        async for response in responses:
            for record in response["meta_info"].pop(RECORD_KEY, ()):
                if call is not None:
                    call.records.append(RequestRecord(**record))
            yield response
