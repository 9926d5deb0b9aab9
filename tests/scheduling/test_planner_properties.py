"""What holds for every policy and every sequence of events; the stateless oracle is the measure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_engine import make_call

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.call import Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.oracle import oracle_plan
from autellix_server.scheduling.planner import PROTECTED_RANK, Plan, Planner, PlannerSettings
from autellix_server.scheduling.policies import POLICIES, make_policy

MAX_OVERTAKES = 3
TOKENS = 100
LADDERS = ("mlfq", "plas", "atlas", "atlas-dag")

Event = tuple[str, int, float, int]
events = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "arrive", "credit", "plan", "plan", "finish", "grow", "end"]),
        st.integers(0, 9),
        st.floats(0.0, 3.0),
        st.integers(0, TOKENS),
    ),
    max_size=60,
)
every_policy = pytest.mark.parametrize("name", POLICIES)


@dataclass
class Drive:
    """Feeds events to a planner, keeps its own account of calls, and checks every plan."""

    name: str
    settings: PlannerSettings = field(
        default_factory=lambda: PlannerSettings(beta=2.0, max_overtakes=MAX_OVERTAKES, max_idle_programs=2)
    )
    calls: list[Call] = field(default_factory=list)
    overtaken: Counter[int] = field(default_factory=Counter)
    trace: list[tuple[list[int], list[int]]] = field(default_factory=list)
    now: float = 0.0
    most_admitted: int = 1

    def __post_init__(self) -> None:
        self.planner = Planner(make_policy(self.name, geometric_levels(4, 1.0)), self.settings)

    def run(self, sequence: list[Event]) -> Drive:
        """Feed all events, then check that every call is accounted for."""
        for number, event in enumerate(sequence):
            self.step(number, *event)
            self.now += 0.25
            assert self.planner.running == sum(call.running for call in self.calls)
            assert self.planner.waiting + self.planner.running == len(self.calls)
        return self

    def step(self, number: int, kind: str, which: int, seconds: float, tokens: int) -> None:
        """One event; those about a call fall on one of the calls there."""
        call = self.calls[which % len(self.calls)] if self.calls else None
        if kind == "arrive":
            call = make_call(f"p{which % 4}", number, seconds, tokens, cached_tokens=which, remaining_s=seconds)
            call.program_class = f"c{which % 2}"
            self.calls.append(call)
            self.planner.arrive(call, self.now)
        elif kind == "plan":
            self.plan(Capacity(1 + which % 4, TOKENS + tokens, 2 * tokens))
        elif kind == "end":
            self.planner.program_ended(ProgramId(f"p{which % 4}"), f"c{which % 2}", seconds, self.now)
        elif call is not None and kind == "grow":
            call.kv_tokens += tokens // 10
        elif call is not None and kind == "finish":
            self.calls.remove(call)
            self.planner.remove(call, self.now)
        elif call is not None and call.running:
            self.credit(call, seconds)

    def credit(self, call: Call, seconds: float) -> None:
        """Service makes a call go down its ladder, never up."""
        before = call.level
        self.planner.credit(call, seconds, self.now)
        assert self.name not in LADDERS or call.level >= before

    def plan(self, capacity: Capacity) -> None:
        """A plan is the oracle's, fits the capacity, and keeps the bound on overtaking."""
        self.planner._promote(self.now)
        expected = oracle_plan(self.calls, capacity)
        ran = [call for call in self.calls if call.running]
        made: Plan = self.planner.plan(capacity, self.now)
        assert made == expected
        assert sorted(map(id, self.running())) == sorted(map(id, {*ran, *made.admit} - {*made.preempt}))
        assert len(self.running()) <= capacity.slots
        assert sum(call.kv_tokens for call in self.running()) <= capacity.kv_tokens
        self.trace.append(([c.ticket for c in made.admit], [c.ticket for c in made.preempt]))
        self.most_admitted = max(self.most_admitted, len(made.admit))
        for call in self.calls:
            if not call.running:
                self.overtaken[call.ticket] += sum(other.ticket > call.ticket for other in made.admit)
                assert self.overtaken[call.ticket] <= MAX_OVERTAKES + self.most_admitted - 1

    def running(self) -> list[Call]:
        """The calls that run."""
        return [call for call in self.calls if call.running]


@every_policy
@given(events)
def test_plan_is_the_oracles(name: str, sequence: list[Event]) -> None:
    """No call is lost or doubled, capacity holds, levels only sink in a call, and overtaking is bounded."""
    Drive(name).run(sequence)


@every_policy
@given(events)
def test_same_input_gives_the_same_plans(name: str, sequence: list[Event]) -> None:
    """Nothing but the events decides."""
    assert Drive(name).run(sequence).trace == Drive(name).run(sequence).trace


@every_policy
@given(events)
def test_everything_finishes_in_the_end(name: str, sequence: list[Event]) -> None:
    """When nothing more arrives and every running call finishes, no call is left behind."""
    drive = Drive(name).run(sequence)
    for call in drive.calls:
        call.kv_tokens = min(call.kv_tokens, TOKENS)
    for _ in range(2 * len(drive.calls)):
        drive.plan(Capacity(2, TOKENS, 0))
        for call in drive.running():
            drive.calls.remove(call)
            drive.planner.remove(call, drive.now)
    assert not drive.calls


@every_policy
@given(events, st.sampled_from([0.0, 3.0, inf]))
def test_working_set_admission_joins_any_order(name: str, sequence: list[Event], hold_s: float) -> None:
    """What runs and what is held fits together, something always runs, and who is held is told as it changes."""
    planner = Planner(make_policy(name, geometric_levels(4, 1.0)), PlannerSettings(hold_s=hold_s))
    live: list[Call] = []
    held: dict[str, int] = {}
    for number, (kind, which, seconds, tokens) in enumerate(sequence):
        if kind == "arrive":
            live.append(make_call(f"p{which}", number, seconds, tokens))
            planner.arrive(live[-1], float(number))
        elif kind == "plan":
            plan = planner.plan(Capacity(3, TOKENS, tokens), float(number))
            for program in (*plan.release, *(call.context.program for call in plan.admit)):
                held.pop(program, None)
            running = [call for call in live if call.running]
            assert sum(call.kv_tokens for call in running) + sum(held.values()) <= TOKENS
            assert not live or running
        elif kind == "finish" and live:
            call = live.pop(which % len(live))
            if planner.remove(call, float(number), call.kv_tokens):
                assert hold_s
                held[call.context.program] = call.kv_tokens
        elif kind == "end":
            planner.program_ended(ProgramId(f"p{which}"), "", seconds, float(number))
            held.pop(f"p{which}", None)
        assert planner._holds.kv_tokens == sum(held.values())


@pytest.mark.parametrize("settings", [PlannerSettings(), PlannerSettings(beta=inf, max_overtakes=None)])
def test_protection_is_rare_without_pressure(settings: PlannerSettings) -> None:
    """Calls that run at once are never moved."""
    planner = Planner(make_policy("plas", geometric_levels()), settings)
    for number in range(100):
        call = make_call(number=number)
        planner.arrive(call, float(number))
        planner.plan(Capacity(1, 1, 0), float(number))
        assert call.running
        assert call.rank != PROTECTED_RANK
        planner.remove(call, float(number))
