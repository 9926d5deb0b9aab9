"""Who is told what, and what a call's record says of itself."""

from __future__ import annotations

from telemetry_records import arrived, bill, program

from autellix_server.gateway.telemetry.events import (
    CallRecord,
    EngineChange,
    Listener,
    Listeners,
    Note,
    Outcome,
    PinMove,
    Stage,
)
from autellix_server.scheduling.table import Program


class Everything(Listener):
    """Writes down everything it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def call_arrived(self, call: CallRecord) -> None:
        """See `Listener`."""
        self.heard.append(call)

    def call_ended(self, call: CallRecord) -> None:
        """See `Listener`."""
        self.heard.append(call)

    def program_opened(self, program: Program) -> None:
        """See `Listener`."""
        self.heard.append(program)

    def program_ended(self, program: Program) -> None:
        """See `Listener`."""
        self.heard.append(program)

    def engine_changed(self, change: EngineChange) -> None:
        """See `Listener`."""
        self.heard.append(change)

    def noted(self, note: Note) -> None:
        """See `Listener`."""
        self.heard.append(note)


class Ends(Listener):
    """Hears of calls that end, and of nothing else."""

    def __init__(self, log: list[str], name: str) -> None:
        self._log, self._name = log, name

    def call_ended(self, call: CallRecord) -> None:
        """Write one's name down."""
        self._log.append(self._name)


def test_everybody_is_told_in_order() -> None:
    """And who ignores an event is not called for it."""
    log: list[str] = []
    listeners = Listeners([Ends(log, "first"), Ends(log, "second")])
    listeners.call_arrived(arrived())
    listeners.program_ended(program())
    assert log == []
    listeners.call_ended(arrived())
    assert log == ["first", "second"]


def test_every_event_passes_through() -> None:
    """Also through listeners among listeners, and nobody listening is fine."""
    everything = Everything()
    call, row, change, note = arrived(), program(), EngineChange("e0", "ready", "closed"), PinMove("away", "e0", "e1")
    for listeners in (Listeners([Listeners([everything])]), Listeners()):
        listeners.call_arrived(call)
        listeners.call_ended(call)
        listeners.program_opened(row)
        listeners.program_ended(row)
        listeners.engine_changed(change)
        listeners.noted(note)
    assert everything.heard == [call, call, row, row, change, note]


def test_a_record_tells_the_latest() -> None:
    """Sent twice, since the first engine failed: the second one counts."""
    call = arrived(1.0)
    assert (call.engine, call.last(Stage.SENT)) == ("", None)
    call.note(Stage.SENT, 1.5, "e0")
    call.note(Stage.FAILED, 2.0, "e0", "connection")
    call.note(Stage.SENT, 2.5, "e1")
    call.settle(bill(), 3.0)
    call.end(Outcome.OK, 3.25)
    sent = call.last(Stage.SENT)
    assert sent is not None
    assert (sent.at_s, call.engine) == (2.5, "e1")
    assert [moment.stage for moment in call.moments] == ["sent", "failed", "sent", "billed"]
    assert (call.bill, call.outcome, call.ended_s) == (bill(), "ok", 3.25)
