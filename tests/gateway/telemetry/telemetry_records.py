"""Calls and programs as the dispatcher would tell of them."""

from __future__ import annotations

from typing import Any

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.gateway.telemetry.events import CallRecord, Outcome, Stage
from autellix_server.scheduling.table import Program

TIME = TimeSplit({"admission": 100_000, "batch": 50_000}, 200_000, 500_000, 0, 150_000)
"""One second."""


def bill(program: str = "p1", call: str = "0.0", time: TimeSplit = TIME, **counts: int) -> CallBill:
    """Return a bill of engine ``e0``."""
    return CallBill(ProgramId(program), CallId(call), "e0", time, **counts)


def context(program: str = "p1", call: str = "0.0", **fields: Any) -> CallContext:
    """Return the identity of a call."""
    return CallContext(**{"program": ProgramId(program), "salt": "a", "thread": 0, "call": CallId(call), **fields})


def arrived(at_s: float = 10.0, who: CallContext | None = None, **fields: Any) -> CallRecord:
    """Return a call that has just arrived."""
    options = {"tenant": "acme", "path": "/v1/chat/completions", "model": "tiny", "streamed": True, **fields}
    return CallRecord(who or context(), at_s, **options)


def ended(at_s: float = 10.0, who: CallContext | None = None, time: TimeSplit = TIME, **fields: Any) -> CallRecord:
    """Return a call that was held, sent to ``e0``, answered and billed, and ended when its bill says."""
    call = arrived(at_s, who, **fields)
    wall_s = time.wall_us / 1e6
    call.note(Stage.HELD, at_s, "e0")
    call.note(Stage.SENT, at_s + wall_s / 4, "e0")
    call.note(Stage.FIRST_BYTE, at_s + wall_s / 2, "e0")
    counts = {"service_us": 700_000, "prompt_tokens": 30, "cached_tokens": 20, "output_tokens": 5}
    call.settle(bill(call.context.program, call.context.call, time, **counts), at_s + wall_s)
    call.end(Outcome.OK, at_s + wall_s)
    return call


def program(name: str = "p1", **fields: Any) -> Program:
    """Return the row of a program."""
    return Program(ProgramId(name), None, arrived_s=10.0, active_s=10.0, **fields)
