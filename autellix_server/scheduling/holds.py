"""Working-set admission: an idle program's KV stays on the device, and keeps the program's place in line."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.call import Call
from autellix_server.scheduling.line import Line


@dataclass(eq=False, slots=True)
class Hold:
    """The KV of a program between its calls.

    Attributes:
        program: whose it is.
        kv_tokens: device tokens.
        key: place in line, that of the program's last call.
        until_s: from then on it gives way to any call.
        call: the program's next call, once it has arrived.
    """

    program: ProgramId
    kv_tokens: int
    key: tuple[int, float, int]
    until_s: float
    call: Call | None = None


class Holds:
    """The holds of one planner.

    Without them a call that runs for the first time pushes out what another program comes back for a moment later, and
    under load every call of every program computes its history again. A hold is taken back by the program's next call,
    by a better call that needs the room or, once it is stale, by any call. Since holds stand in line like calls, this
    joins any order of calls.

    Source: Denning, The Working Set Model for Program Behavior. Differs from Autellix, which keeps nothing of a program
    between its calls.

    Args:
        hold_s: seconds after which a hold is stale; 0: nothing is held. At best as long as it takes to bring as much KV
            back as the device can hold: then holding a program in vain costs no more than losing it in vain.
    """

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        # In the order in which they were made, which is that in which they become stale.
        self._holds: dict[ProgramId, Hold] = {}
        self._line: Line[Hold] = Line()
        self.kv_tokens = 0
        """Device tokens of all of them."""

    def of(self, program: ProgramId) -> Hold | None:
        """Return the program's hold, if it has one."""
        return self._holds.get(program)

    def make(self, call: Call, kv_tokens: int, now: float) -> bool:
        """Hold the program of `call`, its last one in flight, which is gone; return whether there is anything to hold.

        Args:
            call: gives the place in line.
            kv_tokens: what the device has of the program.
            now: seconds.
        """
        self.drop(call.context.program)
        if not self._hold_s or not kv_tokens:
            return False
        program = call.context.program
        hold = self._holds[program] = Hold(program, kv_tokens, call.key, now + self._hold_s)
        self._line.add(hold)
        self.kv_tokens += kv_tokens
        return True

    def arrived(self, call: Call) -> None:
        """Note that the program's next call arrived; of several, the first."""
        hold = self._holds.get(call.context.program)
        if hold is not None and hold.call is None:
            hold.call = call

    def drop(self, program: ProgramId) -> None:
        """End the program's hold, if it has one."""
        hold = self._holds.pop(program, None)
        if hold is not None:
            self._line.remove(hold)
            self.kv_tokens -= hold.kv_tokens

    def best_first(self, now: float) -> list[Hold]:
        """Return all holds from the best place in line to the worst, then the stale ones up to the oldest."""
        stale = list(takewhile(lambda hold: hold.until_s <= now, self._holds.values()))
        return [hold for hold in self._line if hold.until_s > now] + stale[::-1]

    def awaited(self) -> list[Call]:
        """Return the waiting calls whose programs are held, best first."""
        calls = [hold.call for hold in self._holds.values() if hold.call is not None]
        return sorted((call for call in calls if call.waits_from_s is not None), key=attrgetter("key"))
