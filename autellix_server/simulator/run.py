"""A run: programs arrive, their calls go through a balancer to engines, and every program's account is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.errors import ConfigurationError
from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.balancing.balancer import DEFAULT_BALANCER, make_balancer
from autellix_server.balancing.choice import BalancedCall, recomputed_tokens
from autellix_server.balancing.load import EngineLoad
from autellix_server.scheduling.levels import Levels, geometric_levels
from autellix_server.scheduling.planner import Planner, PlannerSettings
from autellix_server.scheduling.policies import make_policy
from autellix_server.scheduling.shares import Shares
from autellix_server.scheduling.table import ProgramTable
from autellix_server.simulator.engine import SimEngine, usable_kv_tokens
from autellix_server.simulator.model import EngineModel
from autellix_server.simulator.programs import Arrival, CallTrace, ProgramTrace, SimCall, SimProgram

_US = 1_000_000
_BLOCK_TOKENS = 256
"""Prompt tokens in one block of what balancers by prefix see, as in a kilobyte of a real request."""


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """What is simulated.

    Attributes:
        model: the engines, all alike.
        policy: name of the scheduling policy.
        levels: bins of attained service.
        engines: how many, 1 or more.
        balancer: name of the balancer.
        planner: guards, steps between plans, spares.
        class_names: whether policies that learn are told a program's kind.
        weights: share of each tenant beside the others; 1 for those not named.

    Raises:
        ConfigurationError: there are no engines, or the pool is too small to plan with.
    """

    model: EngineModel
    policy: str
    levels: Levels = field(default_factory=geometric_levels)
    engines: int = 1
    balancer: str = DEFAULT_BALANCER
    planner: PlannerSettings = field(default_factory=PlannerSettings)
    class_names: bool = True
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.engines < 1:
            raise ConfigurationError(f"engines must be at least 1, got {self.engines}")
        if usable_kv_tokens(self.model, self.planner) < 1:
            raise ConfigurationError(
                f"kv_tokens of the engine model is {self.model.kv_tokens}: too few for what {self.model.slots} slots "
                f"and {self.planner.spares} spares produce in {self.planner.steps_between_plans} steps"
            )


EngineFactory = Callable[[str, EngineModel, Planner, Callable[[SimCall, float], None]], SimEngine]


class Simulation:
    """One run over given arrivals; use it once.

    Args:
        settings: what is simulated.
        arrivals: programs in order of arrival.
        make_engine: builds an engine; tests put a slower one in its place.

    Raises:
        ConfigurationError: a call is larger than an engine; the message names program and call.
    """

    def __init__(
        self, settings: SimulationSettings, arrivals: Iterable[Arrival], make_engine: EngineFactory = SimEngine
    ) -> None:
        self._settings = settings
        self._arrivals = list(arrivals)
        _check_sizes(settings, self._arrivals)
        self._table = ProgramTable(make_policy(settings.policy, settings.levels))
        self._shares = Shares()
        self._balancer = make_balancer(settings.balancer)
        self._engines = {
            name: make_engine(
                name,
                settings.model,
                Planner(make_policy(settings.policy, settings.levels), settings.planner),
                self._call_done,
            )
            for name in (f"e{index}" for index in range(settings.engines))
        }
        # Calls to come: time, a number that breaks ties, their program, and the critical path behind them.
        self._releases: list[tuple[float, int, SimProgram, CallTrace, float]] = []
        self._released = 0
        self._ended: list[SimProgram] = []

    def run(self) -> list[SimProgram]:
        """Return every program with its account, in order of their ends."""
        engines = list(self._engines.values())
        arrivals = iter(self._arrivals)
        arrival = next(arrivals, None)
        number = 0
        while True:
            engine = min(engines, key=_next_s) if len(engines) > 1 else engines[0]
            release_s = self._releases[0][0] if self._releases else inf
            arrival_s = arrival.at_s if arrival is not None else inf
            # What arrives goes before steps at the same time, so that a plan sees all that is there.
            if arrival is not None and arrival_s <= release_s and arrival_s <= engine.next_s:
                self._program_arrives(arrival, number)
                number += 1
                arrival = next(arrivals, None)
            elif self._releases and release_s <= engine.next_s:
                now, _, program, trace, path_s = heappop(self._releases)
                self._call_arrives(program, trace, path_s, now)
            elif engine.next_s < inf:
                engine.proceed()
            else:
                return self._ended

    def _program_arrives(self, arrival: Arrival, number: int) -> None:
        program_id = ProgramId(f"{arrival.trace.program_id}.{number}")
        program, roots = SimProgram.start(program_id, arrival.trace, arrival.at_s)
        program.tenant = arrival.tenant
        program.remaining_s = sum(map(self._cost_s, arrival.trace.calls))
        for root in roots:
            self._release(arrival.at_s, program, root, path_s=0.0)

    def _release(self, at_s: float, program: SimProgram, trace: CallTrace, path_s: float) -> None:
        self._released += 1
        heappush(self._releases, (at_s, self._released, program, trace, path_s))

    def _call_arrives(self, program: SimProgram, trace: CallTrace, path_s: float, now: float) -> None:
        parents = tuple(map(CallId, trace.parents))
        context = CallContext(program.id, "s", trace.thread, CallId(trace.id), parents)
        active = self._table.arrive(context, now)
        call = SimCall(
            context=context,
            arrived_s=now,
            prompt_tokens=trace.prompt_tokens,
            base_service_s=active.base_service_s,
            base_wait_s=active.base_wait_s,
            tenant=self._shares.arrive(program.tenant, self._settings.weights.get(program.tenant, 1.0)),
            program_class=program.kind if self._settings.class_names else "",
            remaining_s=program.remaining_s,
            program=program,
            trace=trace,
            active=active,
            path_s=path_s,
        )
        self._choose_engine(call).arrive(call, now)

    def _choose_engine(self, call: SimCall) -> SimEngine:
        if len(self._engines) == 1:
            call.engine, engine = next(iter(self._engines.items()))
            return engine
        program = call.program
        prefix = _prefix_blocks(program.id, call.prompt_tokens) if self._balancer.uses_prefix else ()
        balanced = BalancedCall(program.id, call.prompt_tokens, prefix)
        choice = self._balancer.choose(balanced, list(map(self._load_of, self._engines.values())), program.engine)
        call.engine, call.moved = choice.engine.name, choice.moved_from is not None
        if choice.pins:
            program.engine = call.engine
        return self._engines[call.engine]

    def _load_of(self, engine: SimEngine) -> EngineLoad:
        model = self._settings.model
        return EngineLoad(
            engine.name, engine.calls, engine.planner.waiting, model.slots, engine.kv.pinned / model.kv_tokens
        )

    def _call_done(self, call: SimCall, now: float) -> None:
        program = call.program
        if call.moved:
            call.counts.recomputed_tokens += recomputed_tokens(
                call.trace.shared_prefix_tokens, call.counts.cached_tokens
            )
        self._table.complete(call.active, bill_of(call), now)
        self._shares.complete(program.tenant, call.service_s)
        program.account(call, now)
        program.remaining_s -= self._cost_s(call.trace)
        for at_s, path_s, child in program.released_by(call, now):
            self._release(at_s, program, child, path_s)
        if not program.open_calls:
            row = self._table.end(program.id, now)
            service_s = row.service_us / _US if row is not None else 0.0
            for engine in self._engines.values():
                kind = program.kind if self._settings.class_names else ""
                engine.program_ended(program.id, kind, service_s, now)
            self._ended.append(program)

    def _cost_s(self, trace: CallTrace) -> float:
        return call_cost_s(self._settings.model, trace)


def call_cost_s(model: EngineModel, trace: CallTrace) -> float:
    """Return the service that a call is expected to need when its prefix is cached."""
    return model.service_s(trace.prompt_tokens - trace.shared_prefix_tokens, trace.output_tokens)


def levels_for(model: EngineModel, traces: Sequence[ProgramTrace]) -> Levels:
    """Return the default levels for programs like `traces`: the first bound is the median service of a call."""
    costs = sorted(call_cost_s(model, call) for trace in traces for call in trace.calls)
    return geometric_levels(first_bound_s=costs[len(costs) // 2])


def _prefix_blocks(program: ProgramId, prompt_tokens: int) -> tuple[bytes, ...]:
    """Return the blocks of a prompt: in the engine model a program's history is one, and calls share it by length."""
    return tuple(f"{program}/{block}".encode() for block in range(prompt_tokens // _BLOCK_TOKENS))


def _next_s(engine: SimEngine) -> float:
    return engine.next_s


def _check_sizes(settings: SimulationSettings, arrivals: Iterable[Arrival]) -> None:
    """Refuse calls that no engine can hold: they would wait for ever."""
    usable = usable_kv_tokens(settings.model, settings.planner)
    for trace in {id(arrival.trace): arrival.trace for arrival in arrivals}.values():
        for call in trace.calls:
            if call.prompt_tokens < 1 or call.prompt_tokens + call.output_tokens > usable:
                raise ConfigurationError(
                    f"call {call.id} of program {trace.program_id} has {call.prompt_tokens} prompt and "
                    f"{call.output_tokens} output tokens; an engine of this model holds 1 to {usable} in all"
                )


def bill_of(call: SimCall) -> CallBill:
    """Return what an engine would have reported for `call`."""
    times, counts = call.times, call.counts
    return CallBill(
        call.context.program,
        call.context.call,
        call.engine,
        TimeSplit(
            {
                "admission": round(times.admission_s * _US),
                "retraction": round(times.retraction_s * _US),
                "batch": round(times.batch_s * _US),
            },
            prefill_us=round(times.prefill_s * _US),
            decode_us=round(times.decode_s * _US),
            swap_us=round(times.swap_s * _US),
        ),
        service_us=round(call.service_s * _US),
        prompt_tokens=call.prompt_tokens,
        cached_tokens=counts.cached_tokens,
        output_tokens=call.generated,
        recomputed_tokens=counts.recomputed_tokens,
        swapped_tokens=counts.swapped_tokens,
        preemptions=counts.preemptions,
        level=(call.start_level, call.level),
    )
