"""Calls held at the gateway, in the order of their programs, for an engine that has no planner of ours. Pure.

The planner and the policies are those of our own engines; only what they cannot have there is left out. Such an engine
has a number of places, its window, and nothing is known of its memory; a call that it has is never taken back, since it
would lose what was computed. What a call was served is known when it ends.
"""

from __future__ import annotations

import sys

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.call import Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.planner import Planner

DEFAULT_MOST = 10_000
"""Calls held for one engine, unless told otherwise."""


class Holding:
    """The line in front of one engine. One thread.

    ::

        if not holding.arrive(call, now):
            ...                                     # refuse it: the line is full
        for call in holding.release(now, window.free):
            ...                                     # send it
        holding.finished(call, service_s, now)      # or `left`, whatever it had come to

    Args:
        planner: orders the calls. It belongs to this line, and so does its policy if that learns.
        most: calls that may be held at a time.
    """

    def __init__(self, planner: Planner, most: int = DEFAULT_MOST) -> None:
        self.planner = planner
        self._most = most

    @property
    def held(self) -> int:
        """Calls that wait here."""
        return self.planner.waiting

    def arrive(self, call: Call, now: float) -> bool:
        """Let a call join the line, at the level where the policy starts it; return whether there was room for it.

        Args:
            call: a new one; its account is that of its program at arrival.
            now: seconds.
        """
        if self.held >= self._most:
            return False
        call.kv_tokens = 1  # The planner weighs every call alike, and sees that none that runs could be kept elsewhere.
        self.planner.arrive(call, now)
        return True

    def release(self, now: float, free: int) -> tuple[Call, ...]:
        """Return the calls to be sent now, best first; to be asked also when there is no place, for promotions.

        Args:
            now: seconds.
            free: calls that the engine may have more than it has.
        """
        if not self.held:
            return ()
        slots = self.planner.running + max(0, free)
        plan = self.planner.plan(Capacity(slots, sys.maxsize, host_tokens=0), now)
        for call in plan.admit:
            self.planner.joined(call, now)
        return plan.admit

    def finished(self, call: Call, service_s: float, now: float) -> None:
        """Take out a call that was answered.

        Args:
            call: one that was released.
            service_s: seconds that its program is charged for it.
            now: seconds.
        """
        self.planner.credit(call, service_s, now)
        self.planner.remove(call, now)

    def left(self, call: Call, now: float) -> None:
        """Take out a call whose client went away, or which the engine failed; held or released."""
        self.planner.remove(call, now)

    def program_ended(self, program: ProgramId, program_class: str, service_s: float, now: float) -> None:
        """Let the policy learn from a program that ended; arguments as of `Planner.program_ended`."""
        self.planner.program_ended(program, program_class, service_s, now)
