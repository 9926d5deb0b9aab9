"""Working-set admission: an idle program's KV stays on the device, and keeps the program's place in line."""

from __future__ import annotations

from collections.abc import Iterator, KeysView
from dataclasses import dataclass
from itertools import chain, takewhile
from operator import attrgetter

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.call import Call, Key
from autellix_server.scheduling.line import Line


@dataclass(eq=False, slots=True)
class Hold:
    """The KV of a program of which no call runs.

    Attributes:
        program: whose it is.
        kv_tokens: device tokens.
        key: place in line, that of the program's last call.
        until_s: from then on it is stale: it gives way to any call.
    """

    program: ProgramId
    kv_tokens: int
    key: Key
    until_s: float


class Holds:
    """The holds of one planner.

    Without them a call that runs for the first time pushes out what another program comes back for a moment later, and
    under load every call of every program computes its history again. A hold is taken back by the program's next call,
    by a better call that needs the room or, once it is stale, by any call. Since holds stand in line like calls, this
    joins any order of calls.

    Memory: there are no more holds than the device has tokens, since each has one at least, and calls are remembered
    until one of them runs only. A stale hold costs nothing until somebody needs its room.

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
        # Waiting calls of programs that are held, each program's by arrival.
        self._awaited: dict[ProgramId, dict[Call, None]] = {}
        self.kv_tokens = 0
        """Device tokens of all of them."""

    def __iter__(self) -> Iterator[Hold]:
        """Iterate over all holds, the oldest first."""
        return iter(self._holds.values())

    @property
    def enabled(self) -> bool:
        """Whether anything is ever held."""
        return self._hold_s > 0

    @property
    def programs(self) -> KeysView[ProgramId]:
        """The programs that are held."""
        return self._holds.keys()

    def of(self, program: ProgramId) -> Hold | None:
        """Return the program's hold, if it has one."""
        return self._holds.get(program)

    def make(self, program: ProgramId, kv_tokens: int, key: Key, now: float) -> bool:
        """Hold a program whose last call in flight ran and is gone; return whether there is anything to hold.

        Args:
            program: a hold that it still has is replaced.
            kv_tokens: what the device has of it.
            key: its place in line.
            now: seconds, never less than before.
        """
        if not self.enabled or not kv_tokens:
            return False
        self.drop(program)
        hold = self._holds[program] = Hold(program, kv_tokens, key, now + self._hold_s)
        self._line.add(hold)
        self.kv_tokens += kv_tokens
        return True

    def drop(self, program: ProgramId) -> None:
        """End the program's hold, if it has one."""
        hold = self._holds.pop(program, None)
        if hold is not None:
            self._line.remove(hold)
            self.kv_tokens -= hold.kv_tokens
            self._awaited.pop(program, None)

    def resize(self, program: ProgramId, by: int) -> None:
        """Note that so many tokens more are held of a program that has a hold, or fewer; with none left it ends."""
        hold = self._holds[program]
        if hold.kv_tokens + by <= 0:
            self.drop(program)
            return
        hold.kv_tokens += by
        self.kv_tokens += by

    def arrived(self, call: Call) -> None:
        """Note that a call arrived, in case that its program is held."""
        if call.context.program in self._holds:
            self._awaited.setdefault(call.context.program, {})[call] = None

    def gone(self, call: Call) -> None:
        """Note that a call is gone; a hold that its program still has stays as it was."""
        calls = self._awaited.get(call.context.program)
        if calls is not None:
            calls.pop(call, None)
            if not calls:
                del self._awaited[call.context.program]

    def awaited(self, free_tokens: int) -> list[Call]:
        """Return of each held program the first call that waits, if hold and free tokens are enough for it; best first.

        Args:
            free_tokens: device tokens that nobody has.
        """
        first = ((self._holds[program], next(iter(calls))) for program, calls in self._awaited.items())
        fit = [call for hold, call in first if call.kv_tokens <= hold.kv_tokens + free_tokens]
        return sorted(fit, key=attrgetter("key"))

    def worst_first(self, now: float) -> Iterator[Hold]:
        """Iterate over the stale holds from the oldest, then over the others from the worst place in line.

        No hold may be made or dropped meanwhile.
        """
        stale = takewhile(lambda hold: hold.until_s <= now, self)
        return chain(stale, (hold for hold in reversed(self._line) if hold.until_s > now))
