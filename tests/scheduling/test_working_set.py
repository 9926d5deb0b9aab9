"""Working-set admission: who is let in, who makes way, who is passed over."""

from __future__ import annotations

from small_engine import make_call

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import Capacity, Plan, Planner, PlannerSettings
from autellix_server.scheduling.policies import make_policy

DEVICE = Capacity(slots=9, kv_tokens=100, host_tokens=0)


def planner(max_overtakes: int | None = None) -> Planner:
    """FCFS; members may hold the whole device, and make way after 10 s without a call."""
    settings = PlannerSettings(working_set_share=1.0, working_set_idle_s=10.0, max_overtakes=max_overtakes)
    return Planner(make_policy("fcfs", geometric_levels()), settings)


def pause(at: Planner, program: str, tokens: int, now: float) -> None:
    """A program makes a call that leaves `tokens` of KV behind, and goes to its tools."""
    call = make_call(program, tokens=tokens)
    at.arrive(call, now)
    assert at.plan(DEVICE, now).admit == (call,)
    at.remove(call, now)


def test_program_that_does_not_fit_beside_resting_members_waits() -> None:
    """60 tokens rest; 50 more do not fit, and come in once their owner has been idle for too long."""
    at = planner()
    pause(at, "resting", 60, 0.0)
    new = make_call("new", tokens=50)
    at.arrive(new, 1.0)
    assert at.plan(DEVICE, 10.0) == Plan((), ())
    assert at.plan(DEVICE, 10.5) == Plan((new,), ())


def test_members_pass_those_that_do_not_fit() -> None:
    """A member back from its tools goes on while a newcomer waits."""
    at = planner()
    pause(at, "member", 60, 0.0)
    new, back = make_call("new", tokens=50), make_call("member", number=1, tokens=70)
    at.arrive(new, 1.0)
    at.arrive(back, 1.0)
    assert at.plan(DEVICE, 1.0) == Plan((back,), ())


def test_ended_member_makes_way_at_once() -> None:
    """Its KV is of no use to anyone."""
    at = planner()
    pause(at, "ended", 60, 0.0)
    at.program_ended(ProgramId("ended"), "", 1.0, 0.5)
    new = make_call("new", tokens=50)
    at.arrive(new, 1.0)
    assert at.plan(DEVICE, 1.0) == Plan((new,), ())


def test_first_program_is_let_in_however_large() -> None:
    """A call larger than the limit must not wait for ever."""
    settings = PlannerSettings(working_set_share=0.1)
    at = Planner(make_policy("fcfs", geometric_levels()), settings)
    large = make_call(tokens=90)
    at.arrive(large, 0.0)
    assert at.plan(DEVICE, 0.0).admit == (large,)


def test_protected_call_is_let_in() -> None:
    """The bound on overtaking holds against members too."""
    at = planner(max_overtakes=1)
    pause(at, "member", 60, 0.0)
    new, back = make_call("new", tokens=50), make_call("member", number=1, tokens=20)
    at.arrive(new, 1.0)
    at.arrive(back, 1.0)
    assert at.plan(DEVICE, 1.0).admit == (back,)
    assert at.plan(DEVICE, 2.0).admit == (new,)
