"""The vocabulary of what the dispatcher tells: calls, programs, engines, and what else an operator wants to know.

Times are seconds on the ledger's monotonic clock. Nothing here holds what a client asked or got as an answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from autellix_sdk.bill import CallBill
from autellix_sdk.wire import CallContext
from autellix_server.scheduling.table import Program


class Stage(StrEnum):
    """What happened to a call between its arrival and its end."""

    HELD = "held"
    """The gateway keeps it back for an engine that takes no more now."""
    SENT = "sent"
    """It went to an engine."""
    FAILED = "failed"
    """The engine it was sent to did not answer; it may be sent again."""
    FIRST_BYTE = "first_byte"
    """The first byte of the answer's body is there."""
    BILLED = "billed"
    """The bill is settled; it stands in `CallRecord.bill`."""


class Outcome(StrEnum):
    """How a call ended."""

    OK = "ok"
    REJECTED = "rejected"
    """The engine, or the gateway after admission, refused it: a status of 400 to 499."""
    FAILED = "failed"
    """No engine answered it to the end, or one answered with a status of 500 or more."""
    CANCELLED = "cancelled"
    """The programs API cancelled it."""
    CLIENT_LEFT = "client_left"


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened to a call.

    Attributes:
        stage: what.
        at_s: when.
        engine: the engine it concerns, empty where it concerns none.
        reason: for `Stage.FAILED` the kind of failure, one of few words of ours; else empty.
    """

    stage: Stage
    at_s: float
    engine: str = ""
    reason: str = ""


@dataclass(eq=False, slots=True)
class CallRecord:
    """What is known of one call. The dispatcher alone writes it, and no more once the call has ended.

    Attributes:
        context: identity; the program is scoped to the tenant.
        arrived_s: when the request began.
        tenant: whose it is, empty without API keys. A name from the keys file, never a key.
        path: path of the request, one of `proxy.CALL_PATHS`.
        model: the model as the fleet names it, empty when it does not know it; never the client's own words.
        streamed: the client asked for a stream.
        single_call: the call is a program of its own, which ends with it.
        traceparent: the client's header of this name as it came, `None` without one.
        moments: what happened, in order.
        bill: what it was billed, `None` until then and for a call that never is.
        outcome, ended_s: how and when it ended, `None` until then.
    """

    context: CallContext
    arrived_s: float
    tenant: str = ""
    path: str = ""
    model: str = ""
    streamed: bool = False
    single_call: bool = False
    traceparent: str | None = None
    moments: list[Moment] = field(default_factory=list)
    bill: CallBill | None = None
    outcome: Outcome | None = None
    ended_s: float | None = None

    def note(self, stage: Stage, at_s: float, engine: str = "", reason: str = "") -> None:
        """Add a moment; for the dispatcher."""
        self.moments.append(Moment(stage, at_s, engine, reason))

    def settle(self, bill: CallBill, at_s: float) -> None:
        """Take the bill; for the dispatcher."""
        self.bill = bill
        self.note(Stage.BILLED, at_s, bill.engine)

    def end(self, outcome: Outcome, at_s: float) -> None:
        """Close the record, before listeners are told; for the dispatcher."""
        self.outcome, self.ended_s = outcome, at_s

    def last(self, stage: Stage) -> Moment | None:
        """Return the latest moment of a stage, `None` without one."""
        for moment in reversed(self.moments):
            if moment.stage is stage:
                return moment
        return None

    @property
    def engine(self) -> str:
        """The engine it was sent to last, empty before that."""
        sent = self.last(Stage.SENT)
        return "" if sent is None else sent.engine


@dataclass(frozen=True, slots=True)
class EngineChange:
    """An engine came, went, or is trusted more or less than before.

    Attributes:
        engine: its name.
        state: what it is now, such as ``ready``, ``draining`` or ``away``.
        breaker: ``closed`` while calls may go to it, else ``open`` or ``half_open``.
        detail: one sentence for the operator.
    """

    engine: str
    state: str
    breaker: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request was refused before it was a call.

    Attributes:
        reason: the code of the error reply.
        tenant: whose request it was, empty where that is not known.
    """

    reason: str
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class PinMove:
    """A program's calls go to another engine from now on.

    Attributes:
        reason: why, one of few words of ours such as ``overload`` or ``away``.
        source, target: names of engines.
    """

    reason: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class StoreChange:
    """The state store can or cannot be written.

    Attributes:
        healthy: whether it can.
        detail: one sentence for the operator.
    """

    healthy: bool
    detail: str = ""


Note = Refusal | PinMove | StoreChange


class Listener(Protocol):
    """Hears what happens. Called on the event loop, in order; must return at once and raise nothing.

    A class that names this one as its base hears what it defines and ignores the rest, hence the bodies.
    """

    def call_arrived(self, call: CallRecord) -> None:
        """A call was admitted; its record fills while it lives."""
        return

    def call_ended(self, call: CallRecord) -> None:
        """A call ended, in whatever way; told once, the record is complete."""
        return

    def program_opened(self, program: Program) -> None:
        """A program was opened, by its first call or explicitly, or came back after its end."""
        return

    def program_ended(self, program: Program) -> None:
        """A program ended, by message or by lease; none of its calls is in flight."""
        return

    def engine_changed(self, change: EngineChange) -> None:
        """An engine is in another state than before."""
        return

    def noted(self, note: Note) -> None:
        """Something else happened that an operator wants to know."""
        return


class Listeners(Listener):
    """Tells every listener what it cares about; with none it does nothing.

    Args:
        listeners: in the order in which they are told.
    """

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        everybody = tuple(listeners)
        self._call_arrived = _who_hear("call_arrived", everybody)
        self._call_ended = _who_hear("call_ended", everybody)
        self._program_opened = _who_hear("program_opened", everybody)
        self._program_ended = _who_hear("program_ended", everybody)
        self._engine_changed = _who_hear("engine_changed", everybody)
        self._noted = _who_hear("noted", everybody)

    def call_arrived(self, call: CallRecord) -> None:
        """See `Listener`."""
        for tell in self._call_arrived:
            tell(call)

    def call_ended(self, call: CallRecord) -> None:
        """See `Listener`."""
        for tell in self._call_ended:
            tell(call)

    def program_opened(self, program: Program) -> None:
        """See `Listener`."""
        for tell in self._program_opened:
            tell(program)

    def program_ended(self, program: Program) -> None:
        """See `Listener`."""
        for tell in self._program_ended:
            tell(program)

    def engine_changed(self, change: EngineChange) -> None:
        """See `Listener`."""
        for tell in self._engine_changed:
            tell(change)

    def noted(self, note: Note) -> None:
        """See `Listener`."""
        for tell in self._noted:
            tell(note)


def _who_hear(event: str, listeners: Iterable[Listener]) -> tuple[Any, ...]:
    """Return the methods of those that do more about an event than `Listener`, which does nothing."""
    ignored = getattr(Listener, event)
    return tuple(getattr(listener, event) for listener in listeners if getattr(type(listener), event) is not ignored)
