"""The planner's decision as a plain function of all calls and holds: slow, short, and its measure in tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.call import PROTECTED_RANK, Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.holds import Hold
from autellix_server.scheduling.planner import Plan

_key = attrgetter("key")


def oracle_plan(
    calls: Iterable[Call], capacity: Capacity, holds: Iterable[Hold] = (), margin: int = 0, now: float = 0.0
) -> Plan:
    """Return what `Planner.plan` decides once promotions are done. Changes nothing.

    What outgrew the device leaves. Waiting calls enter in order, and for each those leave who must, from the worst up.
    That stops at the first call that stands behind one that left, or for which not enough may leave. Behind it enter
    the first calls of programs that are held, if nobody must leave. It enters after all where nobody runs or ran.
    Waiting calls that are pinned are passed over.

    Args:
        calls: every call, at its level, waiting and running.
        capacity: what the engine can hold.
        holds: the KV of idle programs, the oldest first.
        margin: levels by which who leaves must be worse than who comes.
        now: seconds.
    """
    in_order = sorted(calls, key=_key)
    waiting = [call for call in in_order if not call.running]
    engine = _Engine([*(call for call in in_order if call.running), *holds], capacity, margin, now)
    engine.change(engine.leaving(None, better=None) or [], None)
    blocked = next((call for call in waiting if not call.pinned and not engine.let_in(call)), None)
    if blocked is not None:
        first = [call for call in waiting if _is_first(call, waiting)]
        passing = [call for call in first if not call.pinned and engine.may_pass(call)]
        for call in passing if blocked.rank != PROTECTED_RANK else ():
            if blocked.key < call.key and engine.may_pass(call):
                engine.let_in(call)
        leaving = engine.leaving(blocked, better=None)
        if not engine.preempt and not engine.calls and leaving is not None:
            engine.change(leaving, blocked)
    return Plan(tuple(engine.admit), tuple(engine.preempt), tuple(engine.release))


class _Engine:
    """What is in the engine as the plan goes on, holds in the order in which they were made; and the plan so far."""

    def __init__(self, inside: list[Call | Hold], capacity: Capacity, margin: int, now: float) -> None:
        self._inside = inside
        self._capacity = capacity
        self._margin = margin
        self._now = now
        self.admit: list[Call] = []
        self.preempt: list[Call] = []
        self.release: list[ProgramId] = []

    @property
    def calls(self) -> list[Call]:
        """Those that run."""
        return [one for one in self._inside if isinstance(one, Call)]

    def may_pass(self, call: Call) -> bool:
        """Return whether the program of `call` is held, and nobody must leave for it."""
        held = any(isinstance(one, Hold) and one.program == _program(call) for one in self._inside)
        return held and self.leaving(call, better=call) == []

    def let_in(self, call: Call) -> bool:
        """Let `call` in if it can be; return whether it was."""
        leaving = self.leaving(call, better=call)
        if leaving is None or any(left.key < call.key for left in self.preempt):
            return False
        self.change(leaving, call)
        return True

    def change(self, leaving: Sequence[Call | Hold], entering: Call | None) -> None:
        """Note who leaves and who enters."""
        self._inside = self._with(entering, leaving)
        self.preempt += [one for one in leaving if isinstance(one, Call)]
        self.release += [one.program for one in leaving if isinstance(one, Hold)]
        self.admit += [] if entering is None else [entering]

    def leaving(self, entering: Call | None, better: Call | None) -> list[Call | Hold] | None:
        """Return who leaves, first to last, so that the others and `entering` fit; `None`: not enough may leave.

        Args:
            entering: who enters; `None`: nobody.
            better: those leave who are worse than it or stale, and no call that finds no room on the host; `None`: any.
        """
        leaving: list[Call | Hold] = []
        while True:
            inside = self._with(entering, leaving)
            slots_short = sum(isinstance(one, Call) for one in inside) > self._capacity.slots
            if not slots_short and sum(one.kv_tokens for one in inside) <= self._capacity.kv_tokens:
                return leaving
            gone = sum(one.kv_tokens for one in (*self.preempt, *leaving) if isinstance(one, Call))
            calls = [one for one in inside if isinstance(one, Call) and one is not entering]
            holds = [one for one in inside if isinstance(one, Hold) and not slots_short]
            worst = self._worst(calls, holds, better, self._capacity.host_tokens - gone)
            if worst is None:
                return None
            leaving.append(worst)

    def _worst(self, calls: list[Call], holds: list[Hold], better: Call | None, host_tokens: int) -> Call | Hold | None:
        """Return who leaves first; the last call to run does for another call only."""
        stale = [hold for hold in holds if hold.until_s <= self._now]
        if stale:
            return stale[0]
        call, hold = max(calls, key=_key, default=None), max(holds, key=_key, default=None)
        if better is None and len(calls) == 1 and hold is not None:
            return hold
        if better is not None and call is not None and call.kv_tokens > host_tokens:
            call = None
        worst = max((one for one in (call, hold) if one is not None), key=_key, default=None)
        return worst if better is None or worst is None or self._yields(worst, better) else None

    def _yields(self, worst: Call | Hold, better: Call) -> bool:
        margin = 0 if better.rank == PROTECTED_RANK else self._margin
        return worst.key > better.key and worst.key[0] >= better.key[0] + margin

    def _with(self, entering: Call | None, leaving: Sequence[Call | Hold]) -> list[Call | Hold]:
        """Return who is inside without those that leave, with `entering` in the place of its program's hold."""
        stay = [one for one in self._inside if one not in leaving]
        if entering is None:
            return stay
        return [*(one for one in stay if isinstance(one, Call) or one.program != _program(entering)), entering]


def _program(call: Call) -> ProgramId:
    return call.context.program


def _is_first(call: Call, waiting: Sequence[Call]) -> bool:
    """Return whether no call of its program has waited longer."""
    return all(call.ticket <= other.ticket for other in waiting if _program(call) == _program(other))
