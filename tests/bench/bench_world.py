"""Programs, a server without HTTP, measurements made by hand, and an event loop whose time is virtual."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.bench.api import CallFailure
from autellix_server.bench.plan import Arm, Pace, Round
from autellix_server.bench.records import Answer, CallRecord, ProgramRecord, RoundRecord
from autellix_server.traces.model import TraceCall, TraceProgram

T = TypeVar("T")
START_S = 1000.0


class _JumpingSelector(selectors.DefaultSelector):
    """Does not wait: when nothing is ready, time jumps to where the wait would have ended."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen again"
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which sleeping takes no time."""

    def __init__(self) -> None:
        self.clock = _JumpingSelector()
        super().__init__(self.clock)

    def time(self) -> float:
        """Return the virtual time."""
        return self.clock.now_s


def in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end at once, however long it sleeps."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def call(name: str, *parents: str, gap_s: float = 0.0, prompt: int = 20, shared: int = 0, output: int = 4) -> TraceCall:
    """Return a call."""
    return TraceCall(name, parents, 0, prompt, shared, output, gap_s)


def program(*calls: TraceCall, at_s: float | None = None, name: str = "p", kind: str = "chat") -> TraceProgram:
    """Return a program; without calls it has one."""
    return TraceProgram(name, kind, "by hand", calls or (call("0"),), arrival_seconds=at_s)


@dataclass(frozen=True)
class Sent:
    """A call as the server got it."""

    context: CallContext
    prompt: str
    tokens: int
    at_s: float


@dataclass
class FakeServer:
    """A `Sender`: answers after some seconds of the loop's time.

    Attributes:
        seconds: how long a call takes.
        failing: calls that fail after their time.
        sent, ended: what it saw.
        left: calls that were cancelled.
    """

    seconds: Callable[[CallContext], float] = lambda context: 1.0
    failing: frozenset[str] = frozenset()
    sent: list[Sent] = field(default_factory=list)
    ended: list[tuple[str, bool]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    async def send(self, context: CallContext, prompt: str, tokens: int) -> Answer:
        """Take the call's time and answer."""
        loop = asyncio.get_running_loop()
        self.sent.append(Sent(context, prompt, tokens, loop.time()))
        try:
            await asyncio.sleep(self.seconds(context))
        except asyncio.CancelledError:
            self.left.append(context.call)
            raise
        if context.call in self.failing:
            raise CallFailure("status 500: broken")
        return Answer(f" answer {context.call}", loop.time(), loop.time(), output_tokens=tokens)

    async def end(self, program: ProgramId, failed: bool) -> None:
        """Note the end."""
        self.ended.append((program, failed))

    def starts_s(self) -> dict[str, float]:
        """Return when each call came, from the start of the round."""
        return {sent.context.call: round(sent.at_s - START_S - 0.05, 6) for sent in self.sent}


class Silent:
    """A `Watcher` that does not care."""

    def changed(self, arrived: int, ended: int, failed: int) -> None:
        """Ignore it."""


def answered(
    latency_s: float = 1.0,
    *,
    lag_s: float = 0.0,
    first_s: float = 0.5,
    tokens: int | None = 10,
    asked: int = 10,
    bill: CallBill | None = None,
) -> CallRecord:
    """Return a call that was due at 0."""
    return CallRecord(0.0, lag_s, Answer("", first_s, latency_s, 20, tokens, bill), 20, asked)


def bill(queued_us: int, decode_us: int) -> CallBill:
    """Return a bill with waiting and decoding alone."""
    return CallBill(ProgramId("p"), CallId("0"), "e0", TimeSplit({"admission": queued_us}, decode_us=decode_us))


def ran(
    number: int,
    latency_s: float = 1.0,
    *,
    kind: str = "chat",
    calls: Sequence[CallRecord] | None = None,
    tool_s: float = 0.0,
    failure: str | None = None,
) -> ProgramRecord:
    """Return a program whose response took `latency_s` and that generated 10 tokens unless calls are given."""
    made = (answered(latency_s),) if calls is None else tuple(calls)
    return ProgramRecord(number, kind, 0.0, latency_s + tool_s, latency_s, made, failure)


ONE = Pace(1.0)
A, B = Arm("a", "http://127.0.0.1:1"), Arm("b", "http://127.0.0.1:2")


def round_of(
    *programs: ProgramRecord,
    arm: Arm = A,
    pace: Pace = ONE,
    repeat: int = 0,
    counted: frozenset[int] | None = None,
    planned: int | None = None,
    span_s: float = 10.0,
    cpu_s: float = 0.1,
) -> RoundRecord:
    """Return a round in which all programs count unless told otherwise."""
    numbers = frozenset(one.number for one in programs) if counted is None else counted
    total = len(programs) if planned is None else planned
    return RoundRecord(Round(arm, pace, repeat), programs, total, numbers, span_s, cpu_s)
