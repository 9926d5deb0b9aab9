"""A plan in the making: who is let in, who leaves for it, and what room is left."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.call import Call
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


class Draft:
    """Running calls and holds leave from the worst up, pinned calls never; stale holds go before all others.

    Args:
        capacity: what the engine can hold.
        running: the calls that run; not changed.
        holds: the KV of idle programs; those that end are dropped from it.
        now: seconds.

    Attributes:
        admit: calls let in, in the order of asking.
        preempt: running calls that leave, worst first.
        release: programs that are held no longer because others need the room.
    """

    def __init__(self, capacity: Capacity, running: Line[Call], holds: Holds, now: float) -> None:
        self.admit: list[Call] = []
        self.preempt: list[Call] = []
        self.release: list[ProgramId] = []
        self._holds = holds
        self._now = now
        # Who may leave, worst last.
        self._calls = [call for call in running if not call.pinned]
        self._pinned = len(running) - len(self._calls)
        self._room = Room(
            capacity.slots - len(running),
            capacity.kv_tokens - sum([call.kv_tokens for call in running]) - holds.kv_tokens,
            capacity.host_tokens,
        )

    @property
    def idle(self) -> bool:
        """Nothing runs, before or after."""
        return not (self._calls or self._pinned or self.admit or self.preempt)

    def shrink(self) -> None:
        """Let leave what does not fit any longer."""
        while self._room.slots < 0 or self._room.kv_tokens < 0:
            worst = self._take_worst(slots_short=self._room.slots < 0)
            if worst is None:
                return  # Something else fills the device.
            self._room = self._room.plus(worst)
            self._leave(worst)

    def displace_for(self, call: Call) -> bool:
        """Let `call` in, for which calls and holds that are worse leave; return whether it fits so.

        One that does not changes nothing, and is the last for which anybody can be displaced.
        """
        own = self._holds.of(call.context.program)
        room = self._room.plus(own)
        leaving: list[Call | Hold] = []
        while not room.fits(call):
            worst = self._take_worst(slots_short=room.slots < 1, better=call)
            if worst is None:
                return False
            if worst is not own:
                leaving.append(worst)
                room = room.plus(worst)
        if room.host_tokens < 0 and any(isinstance(one, Call) for one in leaving):
            return False
        for one in leaving:
            self._leave(one)
        self._enter(call, room)
        return True

    def fit_in(self, call: Call) -> None:
        """Let `call` in if there is room beside all others, to which the KV held for its own program counts."""
        room = self._room.plus(self._holds.of(call.context.program))
        if room.fits(call):
            self._enter(call, room)

    def force_in(self, call: Call) -> None:
        """Let `call` in where nothing runs, whatever is held."""
        for hold in reversed(self._holds.best_first(self._now)):
            if self._room.plus(self._holds.of(call.context.program)).fits(call):
                break
            if hold.program != call.context.program:
                self._room = self._room.plus(hold)
                self._leave(hold)
        self.fit_in(call)

    @cached_property
    def _held(self) -> list[Hold]:
        return self._holds.best_first(self._now)

    def _take_worst(self, *, slots_short: bool, better: Call | None = None) -> Call | Hold | None:
        """Take out what leaves first.

        Args:
            slots_short: only calls have slots to give; KV tokens holds have as well.
            better: only what is worse than this call, or stale, is taken; `None`: anything.
        """
        while self._held and self._holds.of(self._held[-1].program) is not self._held[-1]:
            self._held.pop()  # It was taken back since.
        hold = self._held[-1] if self._held and not slots_short else None
        call = self._calls[-1] if self._calls else None
        # Where nobody is let in, the last call to run stays rather than anything that is held.
        last = better is None and len(self._calls) + self._pinned == 1
        if hold is not None and (last or hold.until_s <= self._now or _worse(hold, call, better)):
            return self._held.pop()
        return self._calls.pop() if _worse(call, None, better) else None

    def _leave(self, one: Call | Hold) -> None:
        if isinstance(one, Call):
            self.preempt.append(one)
        else:
            self._holds.drop(one.program)
            self.release.append(one.program)

    def _enter(self, call: Call, room: Room) -> None:
        self._holds.drop(call.context.program)
        self._room = room.less(call)
        self.admit.append(call)


def _worse(one: Call | Hold | None, *others: Call | Hold | None) -> bool:
    """Return whether `one` is there and stands behind all of the others that are."""
    return one is not None and all(other is None or other.key < one.key for other in others)
