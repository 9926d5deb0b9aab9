"""What holds for every policy and every sequence of events; the stateless oracle is the measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_engine import make_call

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling import bounds
from autellix_server.scheduling.call import PROTECTED_RANK, Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.oracle import oracle_plan
from autellix_server.scheduling.planner import Plan, Planner, PlannerSettings
from autellix_server.scheduling.policies import POLICIES, make_policy
from autellix_server.scheduling.shares import NO_TENANT, TenantStanding

MAX_OVERTAKES = 3
TOKENS = 100
LADDERS = ("mlfq", "plas", "atlas", "atlas-dag")

Event = tuple[str, int, float, int]
events = st.lists(
    st.tuples(
        st.sampled_from(
            ["arrive", "arrive", "arrive", "credit", "plan", "plan", "finish", "finish", "grow", "pin", "end"]
        ),
        st.integers(0, 9),
        st.floats(0.0, 3.0),
        st.integers(0, TOKENS),
    ),
    # It takes some events until there are calls that wait, calls that run and holds to choose from.
    min_size=20,
    max_size=70,
)
few_but_long = settings(max_examples=30)
every_policy = pytest.mark.parametrize("name", POLICIES)


@pytest.fixture(scope="module", autouse=True)
def _bounds_move_soon() -> Iterator[None]:
    """A few events are enough for calibrated bounds to move."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "LEAST_CALLS", 1)
        yield


@dataclass
class Drive:
    """Feeds events to a planner, keeps its own account of calls and of what is held, and checks every plan.

    With `departs` its engine does not let in everybody whom a plan admits, and calls that wait are pinned. With
    `tenants` programs belong to three of them, which are ahead of each other by up to 30 s of service.
    """

    name: str
    hold_s: float = 2.0
    calibrated: bool = False
    departs: bool = False
    tenants: bool = False
    tenant: TenantStanding = NO_TENANT
    calls: list[Call] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)
    overtaken: Counter[int] = field(default_factory=Counter)
    trace: list[tuple[list[int], list[int]]] = field(default_factory=list)
    now: float = 0.0
    most_admitted: int = 1

    def __post_init__(self) -> None:
        self.planner = Planner(
            make_policy(self.name, geometric_levels(4, 1.0)),
            PlannerSettings(
                beta=2.0,
                max_overtakes=MAX_OVERTAKES,
                max_idle_programs=2,
                hold_s=self.hold_s,
                calibrated=self.calibrated,
            ),
        )

    def run(self, sequence: list[Event]) -> Drive:
        """Feed all events, then check that every call is accounted for."""
        for number, event in enumerate(sequence):
            self.step(number, *event)
            self.now += 0.25
            assert self.planner.running == sum(call.running for call in self.calls)
            assert self.planner.waiting + self.planner.running == len(self.calls)
            assert {hold.program: hold.kv_tokens for hold in self.planner._holds} == self.held
            assert self.planner._holds.kv_tokens == sum(self.held.values())
            awaited = {call for calls in self.planner._holds._awaited.values() for call in calls}
            assert awaited == {call for call in self.calls if call.context.program in self.held}
        return self

    def step(self, number: int, kind: str, which: int, seconds: float, tokens: int) -> None:
        """One event; those about a call fall on one of the calls there."""
        call = self.calls[which % len(self.calls)] if self.calls else None
        if kind == "arrive":
            call = make_call(f"p{which % 7}", number, seconds, tokens // 2, cached_tokens=which, remaining_s=seconds)
            call.program_class = f"c{which % 2}"
            call.tenant = self.tenant
            if self.tenants:
                call.tenant = TenantStanding(f"t{which % 3}", round(seconds * 1e7), 1.0 + which % 3)
            self.calls.append(call)
            self.planner.arrive(call, self.now)
        elif kind == "plan":
            self.plan(Capacity(1 + which % 6, TOKENS + tokens // 2, 2 * tokens), tokens % 8 * self.departs)
        elif kind == "end":
            self.held.pop(f"p{which % 7}", None)
            self.planner.program_ended(ProgramId(f"p{which % 7}"), f"c{which % 2}", seconds, self.now)
        elif call is not None and kind == "grow":
            call.kv_tokens += tokens // 10
        elif call is not None and kind == "finish":
            self.finish(call)
        elif call is not None and kind == "pin":
            call.pinned ^= self.departs and not call.running
        elif call is not None and call.running:
            self.credit(call, seconds)

    def credit(self, call: Call, seconds: float) -> None:
        """Service makes a call go down its ladder, never up."""
        before = call.level
        self.planner.credit(call, seconds, self.now)
        assert self.name not in LADDERS or call.level >= before

    def finish(self, call: Call) -> None:
        """A call is done or aborted; what its program has on the device is held when it was its only one and ran."""
        self.calls.remove(call)
        program = call.context.program
        last = call.running and all(other.context.program != program for other in self.calls)
        if self.planner.remove(call, self.now, call.kv_tokens):
            assert last
            self.held[program] = call.kv_tokens

    def plan(self, capacity: Capacity, refused: int = 0) -> None:
        """A plan is the oracle's, fits the capacity, lets somebody run, and keeps the bound on overtaking.

        Args:
            capacity: what the engine can hold.
            refused: bits set for those that the engine does not let in, by their places in the plan.
        """
        self.planner._promote(self.now)
        expected = oracle_plan(self.calls, capacity, self.planner._holds, self.planner.policy.margin, self.now)
        ran = [call for call in self.calls if call.running]
        made: Plan = self.planner.plan(capacity, self.now)
        assert made == expected
        running = self.running()
        assert sorted(map(id, running)) == sorted(map(id, {*ran, *made.admit} - {*made.preempt}))
        for program in made.release:
            del self.held[program]
        ended = {call.context.program for call in made.admit}
        assert len(running) <= capacity.slots
        held_tokens = sum(tokens for program, tokens in self.held.items() if program not in ended)
        assert sum(call.kv_tokens for call in running) + held_tokens <= capacity.kv_tokens
        movable = [call for call in self.calls if call.running or not call.pinned]
        first = min(movable, key=lambda call: call.key, default=None)
        assert running or first is None or first.kv_tokens > capacity.kv_tokens
        self.trace.append(([c.ticket for c in made.admit], [c.ticket for c in made.preempt]))
        self.most_admitted = max(self.most_admitted, len(made.admit))
        for call in self.calls:
            if not call.running:
                self.overtaken[call.ticket] += sum(other.ticket > call.ticket for other in made.admit)
                assert self.departs or self.overtaken[call.ticket] <= MAX_OVERTAKES + self.most_admitted - 1
        self.let_in(made.admit, refused)

    def let_in(self, admitted: Sequence[Call], refused: int) -> None:
        """The engine lets some in: they have what was held for their programs; of the others it is held still."""
        for place, call in enumerate(admitted):
            if refused >> place & 1:
                self.planner.left(call, self.now)
            else:
                self.planner.joined(call, self.now)
                self.held.pop(call.context.program, None)

    def running(self) -> list[Call]:
        """The calls that run."""
        return [call for call in self.calls if call.running]


@every_policy
@few_but_long
@given(events, st.sampled_from([0.0, 2.0, inf]), st.booleans(), st.booleans(), st.booleans())
def test_plan_is_the_oracles(
    name: str, sequence: list[Event], hold_s: float, calibrated: bool, departs: bool, tenants: bool
) -> None:
    """No call is lost or doubled, capacity holds, levels only sink in a call, and overtaking is bounded.

    Whether the bounds of the levels stay or move with every call that finishes, and whether or not there are tenants;
    and all but the bound on overtaking whether or not the engine lets in whom it is told to.
    """
    Drive(name, hold_s, calibrated, departs, tenants).run(sequence)


@every_policy
@few_but_long
@given(events)
def test_same_input_gives_the_same_plans(name: str, sequence: list[Event]) -> None:
    """Nothing but the events decides, neither where the bounds of the levels go."""
    one, other = (Drive(name, calibrated=True, tenants=True).run(sequence) for _ in range(2))
    assert (one.trace, one.planner.bounds) == (other.trace, other.planner.bounds)


@every_policy
@few_but_long
@given(events, st.integers(0, 10**12), st.floats(0.01, 100.0))
def test_a_tenant_alone_is_scheduled_as_if_there_were_none(
    name: str, sequence: list[Event], service_us: int, weight: float
) -> None:
    """Whatever it has had, and whatever it weighs."""
    one, other = Drive(name), Drive(name, tenant=TenantStanding("t", service_us, weight))
    assert one.run(sequence).trace == other.run(sequence).trace


@every_policy
@few_but_long
@given(events)
def test_everything_finishes_in_the_end(name: str, sequence: list[Event]) -> None:
    """When nothing more arrives and every running call finishes, no call is left behind."""
    drive = Drive(name, tenants=True).run(sequence)
    for call in drive.calls:
        call.kv_tokens = min(call.kv_tokens, TOKENS)
    for _ in range(2 * len(drive.calls)):
        drive.plan(Capacity(2, TOKENS, 0))
        for call in drive.running():
            drive.finish(call)
    assert not drive.calls


@pytest.mark.parametrize("guards", [PlannerSettings(), PlannerSettings(beta=inf, max_overtakes=None)])
def test_protection_is_rare_without_pressure(guards: PlannerSettings) -> None:
    """Calls that run at once are never moved."""
    planner = Planner(make_policy("plas", geometric_levels()), guards)
    for number in range(100):
        call = make_call(number=number)
        planner.arrive(call, float(number))
        planner.plan(Capacity(1, 1, 0), float(number))
        assert call.running
        assert call.rank != PROTECTED_RANK
        planner.remove(call, float(number))
