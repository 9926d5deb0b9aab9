"""What the planner remembers of programs: order of arrival, work in flight, starvation windows."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from autellix_sdk.wire import ProgramId


@dataclass(eq=False, slots=True)
class LiveProgram:
    """One program as the planner knows it.

    Attributes:
        ticket: place in the order of arrival of programs.
        calls: number of its calls in flight.
        in_flight_s: service so far of these calls.
        wait_mark_s, service_mark_s: its waiting time and attained service when it was last promoted.
        ended: it was told to have ended, and no call came since.
    """

    ticket: int
    calls: int = 0
    in_flight_s: float = 0.0
    wait_mark_s: float = 0.0
    service_mark_s: float = 0.0
    ended: bool = False


class LivePrograms:
    """Programs with calls in flight, and as many idle ones as fit.

    Args:
        max_idle: idle programs remembered; above it the one idle for longest is forgotten and, should it come back,
            counts as new.
    """

    def __init__(self, max_idle: int) -> None:
        self._max_idle = max_idle
        self._busy: dict[ProgramId, LiveProgram] = {}
        self._idle: OrderedDict[ProgramId, LiveProgram] = OrderedDict()
        self._tickets = 0

    def __getitem__(self, program: ProgramId) -> LiveProgram:
        """Return a program with a call in flight."""
        return self._busy[program]

    def enter(self, program: ProgramId) -> LiveProgram:
        """Count a call in, and return its program."""
        row = self._busy.get(program) or self._idle.pop(program, None)
        if row is None:
            self._tickets += 1
            row = LiveProgram(self._tickets)
        self._busy[program] = row
        row.calls += 1
        row.ended = False
        return row

    def leave(self, program: ProgramId, service_s: float) -> bool:
        """Count a call out, with the service it had, and return whether its program is idle now and may come back."""
        row = self._busy[program]
        row.calls -= 1
        row.in_flight_s -= service_s
        if not row.calls:
            row.in_flight_s = 0.0  # Rounding leaves nothing behind.
            del self._busy[program]
            if row.ended:
                return False
            self._idle[program] = row
            if len(self._idle) > self._max_idle:
                self._idle.popitem(last=False)
        return not row.calls

    def ended(self, program: ProgramId) -> None:
        """Drop a program that ended, if it is idle; one with calls in flight stays until they are done."""
        self._idle.pop(program, None)
        if program in self._busy:
            self._busy[program].ended = True
