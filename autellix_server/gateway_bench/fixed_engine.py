"""The engine of the comparison: fixed answers, at the pace that a request asks for, and next to nothing else.

Run as ``python -m autellix_server.gateway_bench.fixed_engine PORT``. It is a server of its own and not
`autellix mock-engine` because it must never be what is measured: an answer takes it tens of microseconds, where a
simulated engine takes a good part of a millisecond and answers in the time of a model. To our gateway it is an engine
with our plugin, as far as calls go: a stamped call gets a bill, so all that the gateway does for one is done.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import BILL_COMMENT, BILL_HEADER, CALL_HEADER, PROGRAM_HEADER, STAMP_HEADER, CallId, ProgramId
from autellix_server.engine.marker import MARKER_KEY
from autellix_server.gateway_bench.precise import precise_loop
from autellix_server.gateway_bench.wire import MODEL, PATH, BadMessage, Message, asked, header, mark
from autellix_server.listening import BACKLOG

_MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "autellix"}]}
_SELF = {"model_path": MODEL, "served_model_name": MODEL, "is_generation": True, MARKER_KEY: {"http": True}}
RESOURCES = {
    "/health": {},
    "/health_generate": {},
    "/v1/models": _MODELS,
    "/server_info": _SELF,
    "/get_server_info": _SELF,
    "/model_info": _SELF,
    "/get_model_info": _SELF,
}
"""What routers ask an engine for before they send it calls."""

_CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
_ANSWER = {"id": "1", "object": "chat.completion", "created": 0, "model": MODEL}
_USAGE = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
_HOLE = mark(0)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _sse(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return b"data: " + _json({**_CHUNK, "choices": [choice]}) + b"\n\n"


_MESSAGE = {"role": "assistant", "content": "to be or not to be " * 20 + _HOLE.decode()}
_BEFORE_MARK, _, _AFTER_MARK = _json(
    {**_ANSWER, "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}], "usage": _USAGE}
).partition(_HOLE)
_BEFORE_TOKEN, _, _AFTER_TOKEN = _framed(_sse({"content": _HOLE.decode()})).partition(_HOLE)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    + _framed(_sse({"role": "assistant", "content": ""}))
)
_LAST_TOKEN = _framed(_sse({}, "stop"))
_DONE = _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class FixedEngine(asyncio.Protocol):
    """One connection of the engine."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._message = Message()
        self._body = b""
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection's transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the stream that was being sent."""
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Answer the request, once it is whole."""
        try:
            self._body += self._message.feed(data)
        except BadMessage:
            self._transport.close()
            return
        if self._message.whole and not self._busy:
            self._answer(self._message.head, self._body)

    def _answer(self, head: bytes, body: bytes) -> None:
        self._busy = True
        path = head.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")
        if path != PATH:
            found = RESOURCES.get(path)
            self._send(b"404 Not Found" if found is None else b"200 OK", _json(found or {}))
            return
        stream, events, per_s = asked(body)
        bill = _bill(head)
        if stream:
            self._transport.write(_STREAM_HEAD)
            _Stream(self, self._loop.time(), events, per_s, bill).tick()
        else:
            more = b"" if bill is None else b"%b: %b\r\n" % (BILL_HEADER.encode(), bill)
            self._send(b"200 OK", _BEFORE_MARK + mark(self._loop.time()) + _AFTER_MARK, more)

    def _send(self, status: bytes, body: bytes, more: bytes = b"") -> None:
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % (status, len(body))
        self.write_last(head + more + b"\r\n" + body)

    def write(self, data: bytes) -> None:
        """Send a part of an answer."""
        self._transport.write(data)

    def write_last(self, data: bytes) -> None:
        """Send the end of an answer, and turn to the next request."""
        self._transport.write(data)
        rest, self._message, self._body, self._busy = self._message.rest, Message(), b"", False
        if rest:
            self.data_received(rest)

    def later(self, due_s: float, do: Callable[[], None]) -> None:
        """Do something at a time of the loop, unless the connection is lost before."""
        self._timer = self._loop.call_at(due_s, do)


class _Stream:
    """Sends tokens when they are due. One that is late goes with those after it, as it would from an engine."""

    def __init__(self, connection: FixedEngine, began_s: float, events: int, per_s: float, bill: bytes | None) -> None:
        self._connection = connection
        self._began_s = began_s
        self._events = events
        self._gap_s = 1 / per_s if per_s else 0.0
        self._bill = bill
        self._sent = 0

    def tick(self) -> None:
        now = asyncio.get_running_loop().time()
        ready: list[bytes] = []
        while self._sent < self._events and (due_s := self._began_s + self._sent * self._gap_s) <= now:
            ready += (_BEFORE_TOKEN, mark(due_s), _AFTER_TOKEN)
            self._sent += 1
        if self._sent < self._events:
            self._connection.write(b"".join(ready))
            self._connection.later(self._began_s + self._sent * self._gap_s, self.tick)
            return
        bill = () if self._bill is None else (_framed(BILL_COMMENT + self._bill + b"\n\n"),)
        self._connection.write_last(b"".join((*ready, _LAST_TOKEN, *bill, _DONE)))


def _bill(head: bytes) -> bytes | None:
    """Return the bill of a stamped call, `None` for others."""
    if header(head, STAMP_HEADER.encode()) is None:
        return None
    program, call = (header(head, name.encode()) or b"" for name in (PROGRAM_HEADER, CALL_HEADER))
    fields = dict(field.partition("=")[::2] for field in call.decode().split(";"))
    time = TimeSplit({"admission": 1}, prefill_us=2, decode_us=3, other_us=4)
    bill = CallBill(ProgramId(program.decode()), CallId(fields["c"]), MODEL, time, service_us=5, output_tokens=1)
    return bill.encode().encode()


async def serve(port: int) -> None:
    """Listen on a loopback port for ever."""
    server = await asyncio.get_running_loop().create_server(FixedEngine, "127.0.0.1", port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
