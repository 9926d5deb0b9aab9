"""A plan in the making: who is let in, who leaves for it, and what room is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.call import PROTECTED_RANK, Call
from autellix_server.scheduling.holds import Hold, Holds
from autellix_server.scheduling.line import Line


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the engine can hold.

    Attributes:
        slots: calls that may run at a time.
        kv_tokens: device tokens that running calls and holds may take together.
        host_tokens: tokens of preempted KV that the host can take in now. A call whose KV would be lost is not
            preempted for a better one; it is when the device runs out of memory. A driver for which recomputing is
            cheap passes as much as it likes.
    """

    slots: int
    kv_tokens: int
    host_tokens: int


class Room(NamedTuple):
    """What is left of a capacity; below 0 where it is exceeded."""

    slots: int
    kv_tokens: int
    host_tokens: int

    def fits(self, call: Call) -> bool:
        """Return whether one more call fits."""
        return self.slots >= 1 and self.kv_tokens >= call.kv_tokens

    def less(self, call: Call) -> Room:
        """Return the room when `call` has come in."""
        return Room(self.slots - 1, self.kv_tokens - call.kv_tokens, self.host_tokens)

    def plus(self, one: Call | Hold | None) -> Room:
        """Return the room when a call has left, its KV for the host, or a hold has ended."""
        if isinstance(one, Call):
            return Room(self.slots + 1, self.kv_tokens + one.kv_tokens, self.host_tokens - one.kv_tokens)
        return self if one is None else Room(self.slots, self.kv_tokens + one.kv_tokens, self.host_tokens)


def gives_way(one: Call | Hold, better: Call, margin: int) -> bool:
    """Return whether `one` stands behind `better` and is so much worse that it leaves for it.

    Args:
        one: who is inside.
        better: who would come in.
        margin: levels by which it must be better, unless it is protected.
    """
    far = one.key[0] - better.key[0] >= margin or better.rank == PROTECTED_RANK
    return far and better.key < one.key


class Draft:
    """Running calls and holds leave from the worst up, pinned calls never; stale holds go before all others.

    Args:
        capacity: what the engine can hold.
        running: the calls that run; not changed.
        holds: the KV of idle programs; not changed, and not to be until the plan is made.
        margin: levels by which who leaves must be worse than who comes, unless it is stale, or the other protected.
        now: seconds.

    Attributes:
        admit: calls let in, in the order of asking.
        preempt: running calls that leave, worst first.
        release: programs that are held no longer because others need the room.
    """

    def __init__(self, capacity: Capacity, running: Line[Call], holds: Holds, margin: int, now: float) -> None:
        self.admit: list[Call] = []
        self.preempt: list[Call] = []
        self.release: list[ProgramId] = []
        self._holds = holds
        self._margin = margin
        self._now = now
        # Programs held no longer: released, or let in.
        self._ended: set[ProgramId] = set()
        # Who may leave: calls, worst last, and holds, of which the next is peeked at.
        self._calls = [call for call in running if not call.pinned]
        self._pinned = len(running) - len(self._calls)
        self._worst_holds = holds.worst_first(now)
        self._hold = next(self._worst_holds, None)
        self._slots = capacity.slots
        self._room = Room(
            capacity.slots - len(running),
            capacity.kv_tokens - sum([call.kv_tokens for call in running]) - holds.kv_tokens,
            capacity.host_tokens,
        )

    @property
    def idle(self) -> bool:
        """Nothing runs, before or after."""
        return self._room.slots == self._slots and not self.preempt

    def shrink(self) -> None:
        """Let leave what does not fit any longer."""
        while self._room.slots < 0 or self._room.kv_tokens < 0:
            worst = self._take_worst(self._room, slots_short=self._room.slots < 0)
            if worst is None:
                return  # Something else fills the device.
            self._leave(worst)

    def displace_for(self, call: Call) -> bool:
        """Let `call` in, for which calls and holds that are worse leave; return whether it fits so.

        One that does not changes nothing, and is the last for which anybody can be displaced.
        """
        own = self._own(call)
        room = self._room.plus(own)
        leaving: list[Call | Hold] = []
        while not room.fits(call):
            worst = self._take_worst(room, slots_short=room.slots < 1, better=call)
            if worst is None:
                return False
            if worst is not own:
                leaving.append(worst)
                room = room.plus(worst)
        self._replace(leaving, call)
        return True

    def awaited(self) -> list[Call]:
        """Return the calls for which what is held for their programs and what is free is room enough now, best first.

        Those let in are among them.
        """
        return self._holds.awaited(self._room.kv_tokens) if self._room.slots >= 1 else []

    def fit_in(self, call: Call) -> None:
        """Let `call` in if its program is held still, and that and what is free is room enough."""
        own = self._own(call)
        if own is not None and self._room.plus(own).fits(call):
            self._replace([], call)

    def force_in(self, call: Call) -> None:
        """Let `call` in where nothing runs, whatever is held."""
        own = self._own(call)
        room = self._room.plus(own)
        leaving: list[Call | Hold] = []
        for hold in self._holds.worst_first(self._now):
            if room.fits(call):
                break
            if hold is not own and hold.program not in self._ended:
                leaving.append(hold)
                room = room.plus(hold)
        if room.fits(call):
            self._replace(leaving, call)

    def _own(self, call: Call) -> Hold | None:
        """Return the hold of the call's program, if it has one still."""
        program = call.context.program
        return None if program in self._ended else self._holds.of(program)

    def _take_worst(self, room: Room, *, slots_short: bool, better: Call | None = None) -> Call | Hold | None:
        """Take out what leaves first.

        Args:
            room: what is left by now.
            slots_short: only calls have slots to give; KV tokens holds have as well.
            better: only what is worse than this call, or stale, is taken, and no call whose KV would be lost; `None`:
                anything.
        """
        while self._hold is not None and self._hold.program in self._ended:
            self._hold = next(self._worst_holds, None)
        hold = None if slots_short else self._hold
        call = self._calls[-1] if self._calls else None
        if call is not None and better is not None and call.kv_tokens > room.host_tokens:
            call = None
        # Where nobody is let in, the last call to run stays rather than anything that is held.
        last = better is None and len(self._calls) + self._pinned == 1
        stale = hold is not None and hold.until_s <= self._now
        if hold is not None and (call is None or last or stale or call.key < hold.key):
            if better is None or stale or gives_way(hold, better, self._margin):
                self._hold = next(self._worst_holds, None)
                return hold
            return None
        if call is not None and (better is None or gives_way(call, better, self._margin)):
            return self._calls.pop()
        return None

    def _leave(self, one: Call | Hold) -> None:
        self._room = self._room.plus(one)
        if isinstance(one, Call):
            self.preempt.append(one)
        else:
            self._ended.add(one.program)
            self.release.append(one.program)

    def _replace(self, leaving: list[Call | Hold], call: Call) -> None:
        """Let all of `leaving` and the hold of the call's own program go for `call`."""
        for one in leaving:
            self._leave(one)
        self._room = self._room.plus(self._own(call)).less(call)
        self._ended.add(call.context.program)
        self.admit.append(call)
