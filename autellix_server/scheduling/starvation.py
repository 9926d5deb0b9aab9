"""Two guards against starvation: by the share of waiting in a program's time, and by how often a call is overtaken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from math import inf

from autellix_server.scheduling.call import Call
from autellix_server.scheduling.live import LivePrograms

_MIN_SWEEP = 1024


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
        service_s = call.base_service_s + call.service_s - row.service_mark_s
        if service_s <= 0 or self._beta == inf or call.waits_from_s is None:
            return inf
        return call.waits_from_s + self._beta * service_s - (call.base_wait_s + call.wait_s - row.wait_mark_s)


class OvertakingGuard:
    """Finds waiting calls that were overtaken too often: that many calls which came later were admitted meanwhile.

    Such a call is *protected*: it goes before all that are not, protected calls among themselves by arrival, and it
    keeps that place until it finishes. That bounds its wait at any load, under any policy.

    Worst case: let a call find A calls there when it arrives, and let n be the most calls that one plan admits. Until
    it is protected it sees at most ``limit + n - 1`` admissions of later calls, over all its waits; after that none,
    since only protected calls that came earlier go before it. So what runs while it waits is at most those A calls and
    ``limit + n - 1`` turns of later ones. With s the longest service of a call, that is ``(A + limit + n - 1) * s``
    seconds of service, and where slots are what is short, all of them serve: it waits that long divided by the slots.
    Every call is taken to fit the engine alone.

    Counting is lazy: a call that waits for fewer than `limit` admissions costs one push and one pop of a heap, which
    holds on to calls for `limit` admissions at most.

    Args:
        limit: how often a call may be overtaken, 1 or more; `None`: without bound.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._admitted = 0
        self._log: list[int] = []
        """Tickets of the latest admissions, the last of them number `_admitted`."""
        self._checks: list[tuple[int, int, float, Call]] = []
        self._pushes = 0

    def watch(self, call: Call) -> None:
        """Watch a call that begins to wait, before the plan that preempts it admits others."""
        self._count(call, call.overtaken_to)  # Its last wait; few calls have had one.
        call.overtaken_from = self._admitted
        self._schedule(call)

    def admitted(self, calls: Sequence[Call]) -> None:
        """Note that a plan admitted `calls`."""
        if self._limit is None or not calls:
            return
        for call in calls:
            call.overtaken_to = self._admitted
        self._log.extend(call.ticket for call in calls)
        self._admitted += len(calls)
        keep = self._limit + len(calls)
        if len(self._log) > 2 * keep:
            del self._log[:-keep]

    def overtaken(self) -> Iterator[Call]:
        """Yield waiting calls that were overtaken `limit` times."""
        while self._limit is not None and self._checks and self._checks[0][0] <= self._admitted:
            _, _, waits_from_s, call = heappop(self._checks)
            if call.waits_from_s != waits_from_s:
                continue  # It has run since, or is gone.
            self._count(call, self._admitted)
            if call.overtaken >= self._limit:
                yield call
            else:
                self._schedule(call)

    def _schedule(self, call: Call) -> None:
        """Look at a waiting call when it has been overtaken too often at the soonest: if all admitted came later."""
        if self._limit is not None and call.waits_from_s is not None:
            self._pushes += 1
            check_at = call.overtaken_from + self._limit - call.overtaken
            heappush(self._checks, (check_at, self._pushes, call.waits_from_s, call))

    def _count(self, call: Call, until: int) -> None:
        """Count admissions up to number `until`; those no longer in the log count as overtaking, to be safe."""
        if until > call.overtaken_from:
            first = self._admitted - len(self._log)
            begin = max(call.overtaken_from, first)
            call.overtaken += min(begin, until) - call.overtaken_from
            call.overtaken += sum(ticket > call.ticket for ticket in self._log[begin - first : max(0, until - first)])
            call.overtaken_from = until
