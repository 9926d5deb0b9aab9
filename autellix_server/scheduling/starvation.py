"""Two guards against starvation: by the share of waiting in a program's time, and by how often a call is overtaken."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from math import inf

from autellix_server.scheduling.call import Call
from autellix_server.scheduling.line import Line
from autellix_server.scheduling.live import LivePrograms
from autellix_server.scheduling.tally import Tally

_MIN_SWEEP = 1024
_LEAST_PLACES = 1024


class WaitGuard:
    """Finds waiting calls whose program waited `beta` times as long as it was served since its last promotion.

    W is the program's waiting time at the call's arrival plus that of the call, T its attained service plus the
    service of the call, both less their values at the program's last promotion. With T = 0 nothing is starved. While a
    call waits only W grows, and with the clock, so that the moment at which it will be starved is known in advance.

    Source: Autellix section 4, Algorithm 1, anti-starvation. Differs: the window starts from a snapshot; resetting the
    call's service instead would lose it at completion.

    Args:
        beta: ratio of waiting to service from which a program is starved; ``inf``: never.
        programs: holds the snapshots.
    """

    def __init__(self, beta: float, programs: LivePrograms) -> None:
        self._beta = beta
        self._programs = programs
        self._due: list[tuple[float, int, float, Call]] = []
        self._pushes = 0
        self._sweep_at = _MIN_SWEEP

    def watch(self, call: Call) -> None:
        """Watch a call that begins to wait."""
        due_s = self._due_s(call)
        if due_s < inf and call.waits_from_s is not None:
            self._pushes += 1
            heappush(self._due, (due_s, self._pushes, call.waits_from_s, call))
            if len(self._due) > self._sweep_at:
                self._sweep()

    def starved(self, now: float) -> Iterator[Call]:
        """Yield waiting calls that are starved by `now`, and begin a new window for the program of each."""
        while self._due and self._due[0][0] <= now:
            _, _, waits_from_s, call = heappop(self._due)
            if call.waits_from_s != waits_from_s:
                continue  # It has run since, or is gone.
            if self._due_s(call) <= now:
                row = self._programs[call.context.program]
                row.wait_mark_s = call.base_wait_s + call.wait_s + now - waits_from_s
                row.service_mark_s = call.base_service_s + call.service_s
                yield call
            else:
                self.watch(call)

    def _sweep(self) -> None:
        """Drop entries of calls that wait no more: they may be due long after their calls are gone."""
        self._due = [entry for entry in self._due if entry[3].waits_from_s == entry[2]]
        heapify(self._due)
        self._sweep_at = max(_MIN_SWEEP, 2 * len(self._due))

    def _due_s(self, call: Call) -> float:
        """Return when `call` will be starved if it goes on waiting; ``inf``: never."""
        row = self._programs[call.context.program]
        # To the microsecond: of calls that ran and waited together, errors of rounding must not choose one.
        service_s = round(call.base_service_s + call.service_s - row.service_mark_s, 6)
        if service_s <= 0 or self._beta == inf or call.waits_from_s is None:
            return inf
        due_s = call.waits_from_s + self._beta * service_s - (call.base_wait_s + call.wait_s - row.wait_mark_s)
        return round(due_s, 6)


class OvertakingGuard:
    """Finds waiting calls that were overtaken too often: that many calls which came later were admitted meanwhile.

    Such a call is *protected*: it goes before all that are not, protected calls among themselves by arrival, and it
    keeps that place until it finishes. That bounds its wait at any load, under any policy.

    Worst case: let a call find A calls there when it arrives, and let n be the most calls that one plan admits. Until
    it is protected it sees at most ``limit + n - 1`` admissions of later calls, over all its waits; after that none,
    since only protected calls that came earlier go before it. So what runs while it waits is at most those A calls and
    ``limit + n - 1`` turns of later ones. With s the longest service of a call, that is ``(A + limit + n - 1) * s``
    seconds of service, and where slots are what is short, all of them serve: it waits that long divided by the slots.
    Calls that pass it because their programs are held count like any others. Where memory is what is short, room may
    be held for another program for `hold_s` after each of those turns, but none from a protected call. Every call is
    taken to fit the engine alone.

    Counting is lazy: what a call was overtaken is looked up when it is admitted and, while it waits, whenever it could
    have reached the limit. A call that waits for n admissions is looked up about ``n / limit * log(limit)`` times at
    most, not at all below `limit`. A look-up and an admission take the logarithm of the number of live calls, and what
    calls leave behind is dropped after a few times as many arrivals.

    Args:
        limit: how often a call may be overtaken, 1 or more; `None`: without bound.
        waiting: the calls that wait.
        running: the calls that run.
    """

    def __init__(self, limit: int | None, waiting: Line[Call], running: Line[Call]) -> None:
        self._limit = inf if limit is None else limit
        self._waiting = waiting
        self._running = running
        # Admissions at which somebody stayed behind, and by their number the calls to look at then.
        self._admitted = 0
        self._checks: list[tuple[float, int, float | None, Call]] = []
        self._pushes = 0
        # Tickets in order, those of all live calls among them, and admissions by place in that row. Begun anew when the
        # row is full, so that what is gone does not pile up.
        self._tickets: list[int] = []
        self._places = 0
        self._tally = Tally(0)

    def enter(self, call: Call) -> None:
        """Watch a call that arrived and waits."""
        if self._limit < inf:
            if len(self._tickets) == self._places:
                self._begin_row()
            else:
                self._tickets.append(call.ticket)
            self._schedule(call)

    def watch(self, call: Call) -> None:
        """Watch a call that was preempted, before the plan that preempts it admits others."""
        if self._limit < inf:
            call.overtaken_mark = self._later(call)
            self._schedule(call)

    def admitted(self, calls: Sequence[Call]) -> None:
        """Note that a plan admits `calls`, which wait until now."""
        if self._limit == inf:
            return
        for call in calls:
            self._count(call)
        if len(calls) < len(self._waiting):  # Else nobody stays behind to be overtaken.
            for call in calls:
                self._tally.add(bisect_left(self._tickets, call.ticket))
            self._admitted += len(calls)

    def overtaken(self) -> Iterator[Call]:
        """Yield waiting calls that were overtaken `limit` times."""
        while self._checks and self._checks[0][0] <= self._admitted:
            _, _, waits_from_s, call = heappop(self._checks)
            if call.waits_from_s != waits_from_s:
                continue  # It has run since, or is gone.
            self._count(call)
            if call.overtaken >= self._limit:
                yield call
            else:
                self._schedule(call)

    def _schedule(self, call: Call) -> None:
        """Look at a waiting call when it has been overtaken too often at the soonest: if all admitted came later."""
        self._pushes += 1
        check_at = self._admitted + self._limit - call.overtaken
        heappush(self._checks, (check_at, self._pushes, call.waits_from_s, call))

    def _count(self, call: Call) -> None:
        """Bring `overtaken` of a waiting call up to now."""
        later = self._later(call)
        call.overtaken += later - call.overtaken_mark
        call.overtaken_mark = later

    def _later(self, call: Call) -> int:
        """Return how many admissions of calls that came later than `call` the row has seen."""
        return self._tally.from_place(bisect_right(self._tickets, call.ticket))

    def _begin_row(self) -> None:
        """Begin a new row with the live calls in it, and drop checks of calls that wait no more."""
        for call in self._waiting:
            self._count(call)
            call.overtaken_mark = 0
        self._tickets = sorted(call.ticket for line in (self._waiting, self._running) for call in line)
        self._places = max(_LEAST_PLACES, 4 * len(self._tickets))
        self._tally = Tally(self._places)
        self._checks = [check for check in self._checks if check[3].waits_from_s == check[2]]
        heapify(self._checks)
