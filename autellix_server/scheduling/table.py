"""The program table: attained service, waiting time and calls of every program. One writer; not thread-safe.

Source: Autellix section 4.1, process table. Differs: programs end by lease as well as by message, and the row of an
ended program is kept for a while as its tombstone, so that leaving and coming back buys nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from autellix_sdk.bill import CallBill, ProgramBill, TimeSplit
from autellix_sdk.wire import CallContext, ProgramId
from autellix_server.scheduling.policy import Policy

MAX_THREADS = 10_000
"""Chains that are told apart in one program: their numbers come from clients, and memory is bounded."""

_US = 1_000_000


@dataclass(frozen=True, slots=True)
class TableLimits:
    """How long and how many programs are remembered.

    Attributes:
        lease_s: a program without a call in flight ends this long after its last call.
        tombstone_s: an ended program's row, and with it its attained service, is kept this long, unless it had no call
            and nobody ended it.
        max_programs: above this many live rows the stalest idle program ends early; tombstones are bounded alike.
    """

    lease_s: float = 900.0
    tombstone_s: float = 3600.0
    max_programs: int = 100_000


@dataclass(eq=False, slots=True)
class ActiveCall:
    """One call in flight.

    Attributes:
        context: identity of the call.
        program: its program's row.
        arrived_s: when it arrived.
        base_service_s: attained service it inherited at arrival, by the policy's rule; it is scheduled by it.
        base_wait_s: its program's waiting time at arrival.
    """

    context: CallContext
    program: Program
    arrived_s: float
    base_service_s: float
    base_wait_s: float


@dataclass(eq=False, slots=True)
class Program:
    """One row of the table.

    Attributes:
        id, name: identity; the name is the last one a call carried.
        arrived_s: when the program was first seen.
        active_s: when it was last opened, called or answered; its lease runs from here.
        service_s: attained service by the policy's rule, which decides its level.
        wait_s: queued time summed over its calls.
        calls: calls in flight.
        completed: calls completed.
        threads: numbers of the chains seen so far, each with its process salt; no more than `MAX_THREADS`.
        engines: engines that ran its calls.
        last_arrival_s, last_completion_s: most recent call arrival and completion, `None` before the first.
        ending: the end was announced; it takes effect when no call is in flight.
        ended_s: when the program ended, `None` while it lives.
        single_call: an anonymous call's own program, which ends with it and leaves nothing behind.
        history_tokens: prompt and answer of the call that was billed last, which its engine may have in its cache.
        paused: an operator holds its calls back.
        boosted: an operator has its calls scheduled as if it had attained nothing.
        cancelled: an operator ended it; its calls are refused until it is opened again.
        tenant: whose program it is; empty where there are no tenants.
        pin: engine that its long calls go to, `None` before the first. Written by `ProgramTable.pin` alone.
    """

    id: ProgramId
    name: str | None
    arrived_s: float
    active_s: float
    service_s: float = 0.0
    wait_s: float = 0.0
    calls: set[ActiveCall] = field(default_factory=set)
    completed: int = 0
    threads: set[tuple[str, int]] = field(default_factory=set)
    engines: set[str] = field(default_factory=set)
    last_arrival_s: float | None = None
    last_completion_s: float | None = None
    ending: bool = False
    ended_s: float | None = None
    single_call: bool = False
    history_tokens: int = 0
    paused: bool = False
    boosted: bool = False
    cancelled: bool = False
    tenant: str = ""
    pin: str | None = None
    time: TimeSplit = field(default_factory=TimeSplit)
    service_us: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    recomputed_tokens: int = 0
    swapped_tokens: int = 0
    preemptions: int = 0
    busy_s: float = 0.0
    """Time with at least one call in flight, up to the last moment there was none."""
    busy_since_s: float | None = None
    dead_s: float = 0.0
    """Time between an end and the reopening after it, which is part of no bill."""

    def bill(self, now: float) -> ProgramBill:
        """Return the program's bill as of `now`, or as of its end."""
        now = now if self.ended_s is None else self.ended_s
        busy_s = self.busy_s + (0.0 if self.busy_since_s is None else now - self.busy_since_s)
        elapsed_us = max(0, round((now - self.arrived_s - self.dead_s) * _US))
        return ProgramBill(
            program=self.id,
            name=self.name,
            calls=self.completed,
            pending=len(self.calls),
            threads=len(self.threads),
            time=self.time,
            service_us=self.service_us,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            recomputed_tokens=self.recomputed_tokens,
            swapped_tokens=self.swapped_tokens,
            preemptions=self.preemptions,
            elapsed_us=elapsed_us,
            tool_us=max(0, elapsed_us - round(busy_s * _US)),
        )


class ProgramTable:
    """Every live program, and the rows of ended ones until they are forgotten.

    Args:
        policy: decides how a completion changes attained service.
        limits: leases and bounds.
        on_end: told of every program that ends, whatever ended it.
        on_change: told of every row that changed or was forgotten, at once and often; not of rows of single calls.
    """

    def __init__(
        self,
        policy: Policy,
        limits: TableLimits | None = None,
        on_end: Callable[[Program], None] = lambda row: None,
        on_change: Callable[[Program], None] = lambda row: None,
    ) -> None:
        self.policy = policy
        self.limits = limits or TableLimits()
        self._on_end = on_end
        self._on_change = on_change
        # Both in order of last activity, stalest first.
        self._programs: OrderedDict[ProgramId, Program] = OrderedDict()
        self._tombstones: OrderedDict[ProgramId, Program] = OrderedDict()

    def __len__(self) -> int:
        return len(self._programs)

    def __iter__(self) -> Iterator[Program]:
        return iter(self._programs.values())

    def ended(self) -> Iterator[Program]:
        """Return the rows of ended programs that are not forgotten yet, the first ended first."""
        return iter(self._tombstones.values())

    def get(self, program: ProgramId) -> Program | None:
        """Return the row of `program`, live or ended, or `None` when it was never seen or is forgotten."""
        return self._programs.get(program) or self._tombstones.get(program)

    def level_of(self, program: Program) -> int:
        """Return the level at which a call of `program` would start now."""
        return self.policy.start_level(program.service_s)

    def restore(self, rows: Iterable[Program], now: float) -> None:
        """Enter the rows of an earlier table into this one, which is empty; none has a call in flight.

        What was announced to end ends now, and beyond the limits the stalest go first, as ever.
        """
        rows = sorted(rows, key=lambda row: row.active_s if row.ended_s is None else row.ended_s)
        for row in rows:
            if row.ended_s is not None:
                self._entomb(row)
        for row in rows:
            if row.ended_s is None:
                self._make_room(now)
                self._programs[row.id] = row
                if row.ending:
                    self._bury(row, now)

    def open(self, program: ProgramId, name: str | None, now: float, *, tenant: str = "") -> Program:
        """Return the row of `program`, opened if new; an ended program reopens with all that it had attained.

        Args:
            program: its ID.
            name: what it is called from now on; `None` keeps its name.
            now: seconds.
            tenant: whose it is, if it is new.
        """
        row = self._open(program, name, now, tenant)
        self._changed(row)
        return row

    def pin(self, row: Program, engine: str | None) -> None:
        """Note the engine that the program's long calls go to."""
        if row.pin != engine:
            row.pin = engine
            self._changed(row)

    def mark(
        self, row: Program, *, paused: bool | None = None, boosted: bool | None = None, cancelled: bool | None = None
    ) -> None:
        """Note what an operator asks of a program; `None` leaves a mark as it is."""
        row.paused = row.paused if paused is None else paused
        row.boosted = row.boosted if boosted is None else boosted
        row.cancelled = row.cancelled if cancelled is None else cancelled
        self._changed(row)

    def _open(self, program: ProgramId, name: str | None, now: float, tenant: str) -> Program:
        row = self._programs.get(program)
        if row is None:
            row = self._tombstones.pop(program, None)
            row = row or Program(program, name, arrived_s=now, active_s=now, tenant=tenant)
            if row.ended_s is not None:
                row.dead_s += now - row.ended_s
            self._make_room(now)
            self._programs[program] = row
        row.name = name or row.name
        row.ending, row.ended_s, row.active_s = False, None, now
        self._programs.move_to_end(program)
        return row

    def arrive(self, context: CallContext, now: float, *, single_call: bool = False, tenant: str = "") -> ActiveCall:
        """Enter a call; by the policy's rule it inherits attained service (Algorithm 1, step 1).

        Args:
            context: who the call is.
            now: seconds.
            single_call: the call has no program of its own; its row ends with it.
            tenant: whose the program is, if it is new.
        """
        row = self._open(context.program, context.name, now, tenant)
        row.single_call = single_call
        call = ActiveCall(context, row, now, self.policy.inherited_s(context, row.service_s), row.wait_s)
        row.calls.add(call)
        if len(row.threads) < MAX_THREADS:
            row.threads.add((context.salt, context.thread))
        row.last_arrival_s = now
        if row.busy_since_s is None:
            row.busy_since_s = now
        self._changed(row)
        return call

    def complete(self, call: ActiveCall, bill: CallBill | None, now: float) -> None:
        """Take a call out and charge what it used (Algorithm 1, step 2).

        Args:
            call: as returned by `arrive`; completing it twice is an error (`KeyError`).
            bill: what the engine measured, or `None` when the engine reported nothing.
            now: seconds.
        """
        row = self._programs[call.context.program]
        row.calls.remove(call)
        row.completed += 1
        row.last_completion_s = row.active_s = now
        if bill is not None:
            self._charge(row, call, bill)
        if not row.calls and row.busy_since_s is not None:
            row.busy_s += now - row.busy_since_s
            row.busy_since_s = None
        self._programs.move_to_end(row.id)
        if not row.calls and (row.ending or row.single_call):
            self._bury(row, now)
        else:
            self._changed(row)

    def end(self, program: ProgramId, now: float) -> Program | None:
        """End a program; with calls in flight it ends when the last of them completes.

        Returns:
            Its row, or `None` when there is no such program. Ending an ended program changes nothing.
        """
        row = self.get(program)
        if row is not None and row.ended_s is None:
            row.ending = True
            if not row.calls:
                self._bury(row, now)
            else:
                self._changed(row)
        return row

    def expire(self, now: float) -> list[Program]:
        """End every idle program whose lease is over, forget old tombstones, and return the programs ended."""
        ended = []
        for row in list(self._programs.values()):
            if row.active_s + self.limits.lease_s > now:
                break
            if not row.calls:
                self._bury(row, now)
                ended.append(row)
        for row in list(self._tombstones.values()):
            if row.ended_s is not None and row.ended_s + self.limits.tombstone_s > now:
                break
            del self._tombstones[row.id]
            self._on_change(row)
        return ended

    def _charge(self, row: Program, call: ActiveCall, bill: CallBill) -> None:
        row.service_s = self.policy.completed(call.context, row.service_s, call.base_service_s, bill.service_us / _US)
        row.wait_s += bill.time.total_queued_us / _US
        row.engines.add(bill.engine)
        row.time += bill.time
        row.service_us += bill.service_us
        row.prompt_tokens += bill.prompt_tokens
        row.cached_tokens += bill.cached_tokens
        row.output_tokens += bill.output_tokens
        row.history_tokens = bill.prompt_tokens + bill.output_tokens
        row.recomputed_tokens += bill.recomputed_tokens
        row.swapped_tokens += bill.swapped_tokens
        row.preemptions += bill.preemptions

    def _bury(self, row: Program, now: float) -> None:
        del self._programs[row.id]
        row.ended_s = now
        if not row.single_call:
            # One that nobody ever used has no account: what is left of it would be memory for anybody to fill.
            if row.ending or row.last_arrival_s is not None:
                self._entomb(row)
            self._on_change(row)
        self._on_end(row)

    def _entomb(self, row: Program) -> None:
        self._tombstones[row.id] = row
        if len(self._tombstones) > self.limits.max_programs:
            self._on_change(self._tombstones.popitem(last=False)[1])

    def _changed(self, row: Program) -> None:
        if not row.single_call:
            self._on_change(row)

    def _make_room(self, now: float) -> None:
        """Before a row is added: end the stalest idle program when the table is full."""
        if len(self._programs) >= self.limits.max_programs:
            stalest = next((row for row in self._programs.values() if not row.calls), None)
            if stalest is not None:
                self._bury(stalest, now)
