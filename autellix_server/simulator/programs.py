"""Programs and calls in the simulator: the shape of a trace, what a call needs before it may start, arrivals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.call import Call
from autellix_server.scheduling.table import ActiveCall
from autellix_server.simulator.call_graph import PendingCalls


class CallTrace(Protocol):
    """One call of a recorded or generated program; `autellix_server.traces.model.TraceCall` is one."""

    @property
    def id(self) -> str:
        """Unique within the program."""

    @property
    def parents(self) -> Sequence[str]:
        """Calls that must be done before; they come earlier in the program."""

    @property
    def thread(self) -> int:
        """Chain of the call graph it is on."""

    @property
    def prompt_tokens(self) -> int:
        """Length of the whole prompt."""

    @property
    def shared_prefix_tokens(self) -> int:
        """The part of the prompt that an earlier call of the program already had."""

    @property
    def output_tokens(self) -> int:
        """Tokens it generates."""

    @property
    def tool_seconds(self) -> float | None:
        """Seconds between its end and the start of its children; `None`: not known, taken as 0."""


class ProgramTrace(Protocol):
    """One program; `autellix_server.traces.model.TraceProgram` is one."""

    @property
    def program_id(self) -> str:
        """Name of the program in its trace."""

    @property
    def kind(self) -> str:
        """What it is: chat, react, mcts, ..."""

    @property
    def calls(self) -> Sequence[CallTrace]:
        """Its calls, parents before children; at least one."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A program that arrives.

    Attributes:
        at_s: when.
        trace: what it does.
        tenant: whose it is; empty where nobody is told apart.
    """

    at_s: float
    trace: ProgramTrace
    tenant: str = ""


def poisson_arrivals(traces: Sequence[ProgramTrace], rate: float, random: Random) -> list[Arrival]:
    """Return every program of `traces` once, in order, at the times of a Poisson process of `rate` programs/s.

    The same `random` state gives the same process at every rate, only stretched: rates can be compared in pairs.
    """
    at_s, arrivals = 0.0, []
    for trace in traces:
        at_s += random.expovariate(1.0) / rate
        arrivals.append(Arrival(at_s, trace))
    return arrivals


@dataclass(slots=True)
class CallTimes:
    """Where the wall time of calls went, in seconds; the parts add up to it.

    Attributes:
        admission_s: waiting, never started.
        retraction_s: waiting again after a preemption.
        batch_s: in the batch while steps and transfers of others ran.
        prefill_s: steps that computed the call's prompt, again after a loss included.
        decode_s: steps that produced its tokens.
        swap_s: bringing its KV back from the host.
    """

    admission_s: float = 0.0
    retraction_s: float = 0.0
    batch_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    swap_s: float = 0.0

    def add(self, more: CallTimes) -> None:
        """Add part by part."""
        self.admission_s += more.admission_s
        self.retraction_s += more.retraction_s
        self.batch_s += more.batch_s
        self.prefill_s += more.prefill_s
        self.decode_s += more.decode_s
        self.swap_s += more.swap_s

    @property
    def queued_s(self) -> float:
        """Waiting, over all causes."""
        return self.admission_s + self.retraction_s + self.batch_s

    @property
    def total_s(self) -> float:
        """The sum of all parts."""
        return self.queued_s + self.prefill_s + self.decode_s + self.swap_s


@dataclass(slots=True)
class Counts:
    """What happened to calls.

    Attributes:
        preemptions: times a call lost its place while running.
        swapped_tokens: tokens of KV moved to the host.
        recomputed_tokens: tokens computed a second time because their KV was lost.
        cached_tokens: prompt tokens found in the prefix cache.
        promotions: times a call moved to a better level.
    """

    preemptions: int = 0
    swapped_tokens: int = 0
    recomputed_tokens: int = 0
    cached_tokens: int = 0
    promotions: int = 0

    def add(self, more: Counts) -> None:
        """Add count by count."""
        self.preemptions += more.preemptions
        self.swapped_tokens += more.swapped_tokens
        self.recomputed_tokens += more.recomputed_tokens
        self.cached_tokens += more.cached_tokens
        self.promotions += more.promotions


@dataclass(eq=False, slots=True, kw_only=True)
class SimCall(Call):
    """A call in the simulator: what the planner orders, and what the engine model knows of it.

    Attributes:
        program: the program it belongs to.
        trace: what it asks for.
        active: its entry in the program table.
        path_s: response time of the calls that its start waited for, along the critical path.
        engine: name of the engine it went to.
        moved: another engine has what it shares with earlier calls.
        start_level: level at arrival.
        queued_at: level and rank when its present wait began.
        times, counts: its account.
        generated: tokens generated so far.
        hit: tokens of history it shares, as pinned.
        computed: tokens of its context whose KV there is, the shared ones included.
        owed_s: service not credited to the planner yet.
        preempted_s: when it was last preempted, `None` before the first time.
        joined_step, joined_s, joined_entry, quantum_entry: kept by the batch that it decodes in.
    """

    program: SimProgram
    trace: CallTrace
    active: ActiveCall
    path_s: float
    engine: str = ""
    moved: bool = False
    start_level: int = 0
    queued_at: tuple[int, float] = (0, 0.0)
    times: CallTimes = field(default_factory=CallTimes)
    counts: Counts = field(default_factory=Counts)
    generated: int = 0
    hit: int = 0
    computed: int = 0
    owed_s: float = 0.0
    preempted_s: float | None = None
    joined_step: int = 0
    joined_s: float = 0.0
    joined_entry: int = 0
    quantum_entry: int = 0

    @property
    def context_tokens(self) -> int:
        """Prompt and output so far."""
        return self.prompt_tokens + self.generated

    @property
    def output_tokens(self) -> int:
        """Tokens it will have generated when done; prefill gives one, so there is always one."""
        return self.trace.output_tokens or 1


@dataclass(eq=False, slots=True)
class SimProgram:
    """A program under way, and at its end the account of it.

    Attributes:
        id: unique in the run, also where a trace repeats.
        kind: its kind.
        tenant: whose it is.
        arrived_s: when it arrived.
        calls: calls that it makes in all.
        open_calls: of these, those that are not done yet.
        pending: of these, those that wait for others.
        remaining_s: estimated service of those, for oracles.
        engine: its engine, set by balancers that pin.
        tokens: tokens generated.
        ended_s: when its last call was done.
        response_s: response time of its calls along the critical path: from arrival to end without tools.
        longest_wait_s: the longest that one of its calls waited in all.
        times, counts: sums over its calls.
    """

    id: ProgramId
    kind: str
    arrived_s: float
    calls: int
    open_calls: int
    pending: PendingCalls[CallTrace]
    tenant: str = ""
    remaining_s: float = 0.0
    engine: str | None = None
    tokens: int = 0
    ended_s: float = 0.0
    response_s: float = 0.0
    longest_wait_s: float = 0.0
    times: CallTimes = field(default_factory=CallTimes)
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def start(cls, program: ProgramId, trace: ProgramTrace, now: float) -> tuple[SimProgram, list[CallTrace]]:
        """Return the program and those of its calls that wait for nothing."""
        pending = PendingCalls(trace.calls)
        return cls(program, trace.kind, now, len(trace.calls), len(trace.calls), pending), pending.roots

    def released_by(self, call: SimCall, now: float) -> Iterator[tuple[float, float, CallTrace]]:
        """Yield the calls that may start because `call` was the last they waited for; see `PendingCalls`."""
        return self.pending.released_by(call.trace, call.path_s + now - call.arrived_s, now)

    def account(self, call: SimCall, now: float) -> None:
        """Book a call that is done."""
        self.open_calls -= 1
        self.tokens += call.generated
        self.times.add(call.times)
        self.counts.add(call.counts)
        self.longest_wait_s = max(self.longest_wait_s, call.times.queued_s)
        if not self.open_calls:
            self.ended_s = now
            self.response_s = call.path_s + now - call.arrived_s

    @property
    def completion_s(self) -> float:
        """From arrival to end, tools included."""
        return self.ended_s - self.arrived_s

    @property
    def tool_s(self) -> float:
        """Tool time along the critical path."""
        return max(0.0, self.completion_s - self.response_s)

    @property
    def token_latency_s(self) -> float:
        """Response time per token generated."""
        return self.response_s / self.tokens
