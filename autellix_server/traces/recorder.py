"""Writes down what a server saw as a trace: structure and token counts, never text.

The recorder is fed what the gateway knows anyway: who a call is when it arrives, its bill when it completes, and the
end of its program. Times are the caller's; nothing is read from a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from autellix_sdk.bill import CallBill
from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.traces.model import MAX_PROGRAM_ID, TraceCall, TraceProgram

SOURCE = "recorded"


@dataclass(frozen=True, slots=True)
class RecorderLimits:
    """How much a recorder holds at once; what goes beyond is counted in `TraceRecorder.dropped` and not recorded.

    Attributes:
        programs: programs that have not ended.
        calls: calls of one program.
    """

    programs: int = 10_000
    calls: int = 10_000


@dataclass(slots=True)
class _Call:
    """A call that arrived."""

    parents: tuple[str, ...]
    thread: int
    arrived_s: float
    completed_s: float | None = None
    gap_s: float | None = None
    bill: CallBill | None = None


@dataclass(slots=True)
class _Program:
    """A program that has not ended: its calls by the name they have on the wire, ``salt.call``."""

    arrived_s: float
    kind: str
    calls: dict[str, _Call] = field(default_factory=dict)
    threads: dict[tuple[str, int], int] = field(default_factory=dict)
    childless: set[str] = field(default_factory=set)


class TraceRecorder:
    """Collects calls by program and yields a trace row when a program ends. One thread feeds it.

    What the engine found in its cache stands for what a call shares: less than it could have been where KV was
    evicted, and for a program's first call what it shares with other programs. Calls are numbered by arrival. The gap
    after a call is the time until its first child arrived, counted from the end of the last call that the child
    waited for. Calls that never completed are left out, and their children lose that parent.

    Args:
        limits: how much it holds at once.
    """

    def __init__(self, limits: RecorderLimits | None = None) -> None:
        self._limits = limits or RecorderLimits()
        self._programs: dict[ProgramId, _Program] = {}
        self._rows = 0
        self._origin_s: float | None = None
        self.dropped = 0
        """Calls that were not recorded because of the limits."""

    def arrived(self, call: CallContext, now: float) -> None:
        """A call arrived; a retry of one that did is the same call and changes nothing."""
        if self._origin_s is None:
            self._origin_s = now
        program = self._programs.get(call.program)
        if program is None:
            if len(self._programs) >= self._limits.programs:
                self.dropped += 1
                return
            program = self._programs[call.program] = _Program(now, call.name or SOURCE)
        name = _wire_name(call.salt, call.call)
        if name in program.calls:
            return
        if len(program.calls) >= self._limits.calls:
            self.dropped += 1
            return
        parents = _parents(program, call)
        _measure_gap([program.calls[parent] for parent in parents], now)
        thread = program.threads.setdefault((call.salt, call.thread), len(program.threads))
        program.calls[name] = _Call(parents, thread, now)
        program.childless.difference_update(parents)
        program.childless.add(name)

    def completed(self, call: CallContext, bill: CallBill, now: float) -> None:
        """A call completed; one that was dropped, or whose program has ended, is passed over."""
        program = self._programs.get(call.program)
        record = program.calls.get(_wire_name(call.salt, call.call)) if program else None
        if record is not None:
            record.completed_s = now
            record.bill = bill

    def ended(self, program: ProgramId) -> TraceProgram | None:
        """A program ended, also by lease: return its row, `None` when none of its calls completed.

        The row's ID ends in its number, as in ``p1.7``: a program that comes back after its end is another row, and no
        other program can have its ID, whatever clients call theirs.
        """
        record = self._programs.pop(program, None)
        if record is None or self._origin_s is None:
            return None
        completed = [(name, call, call.bill) for name, call in record.calls.items() if call.bill is not None]
        if not completed:
            return None
        numbers = {name: str(number) for number, (name, _, _) in enumerate(completed)}
        calls: list[TraceCall] = []
        longest_history = 0
        for name, call, bill in completed:
            parents = tuple(numbers[parent] for parent in call.parents if parent in numbers)
            calls.append(_row(numbers[name], parents, call, bill, longest_history, call.arrived_s - self._origin_s))
            longest_history = max(longest_history, calls[-1].history_tokens)
        first_bill = completed[0][2]
        return TraceProgram(
            program_id=self._row_id(program),
            kind=record.kind,
            source=SOURCE,
            calls=tuple(calls),
            arrival_seconds=record.arrived_s - self._origin_s,
            system_tokens=min(first_bill.cached_tokens, first_bill.prompt_tokens),
        )

    def _row_id(self, program: ProgramId) -> str:
        """Return an ID for the next row; what follows its last dot is unique, and the rest is for people."""
        self._rows += 1
        suffix = f".{self._rows}"
        return program[: MAX_PROGRAM_ID - len(suffix)] + suffix


def _wire_name(salt: str, call: CallId) -> str:
    return f"{salt}.{call}"


def _parents(program: _Program, call: CallContext) -> tuple[str, ...]:
    """Return the recorded calls that `call` waited for.

    A parent is written as its ID alone, or with its salt if another process made it. A call that joins all waited for
    every completed call that has no child yet.
    """
    if call.parents is None:
        return tuple(
            name
            for name, earlier in program.calls.items()
            if name in program.childless and earlier.completed_s is not None
        )
    names = ((_wire_name(call.salt, parent), parent) for parent in call.parents)
    found = (next((name for name in either if name in program.calls), None) for either in names)
    return tuple(dict.fromkeys(name for name in found if name is not None))


def _measure_gap(parents: list[_Call], now: float) -> None:
    """Note the gap between the last end among the parents and their child, which arrives now."""
    ends_s = [parent.completed_s for parent in parents if parent.completed_s is not None]
    if not ends_s:
        return
    gap_s = max(0.0, now - max(ends_s))
    for parent in parents:
        parent.gap_s = gap_s if parent.gap_s is None else min(parent.gap_s, gap_s)


def _row(
    call_id: str, parents: tuple[str, ...], call: _Call, bill: CallBill, longest_history: int, t: float
) -> TraceCall:
    """Return the call as the trace has it; what it shares is bounded by what the calls before it had."""
    prompt_tokens = max(1, bill.prompt_tokens)
    return TraceCall(
        id=call_id,
        parents=parents,
        thread=call.thread,
        prompt_tokens=prompt_tokens,
        shared_prefix_tokens=min(bill.cached_tokens, prompt_tokens, longest_history),
        output_tokens=bill.output_tokens,
        tool_seconds=call.gap_s,
        t=t,
    )
