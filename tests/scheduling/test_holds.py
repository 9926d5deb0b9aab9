"""Working-set admission: whose KV is held between calls, who may take the room, and who goes on meanwhile."""

from __future__ import annotations

import pytest
from small_engine import make_call

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.call import Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.levels import Levels
from autellix_server.scheduling.planner import Plan, Planner, PlannerSettings
from autellix_server.scheduling.policies import make_policy

DEVICE = Capacity(slots=9, kv_tokens=100, host_tokens=1000)


class Device:
    """A planner, PLAS with levels below and above 1 s, and a call of 10 tokens that runs all the time.

    Args:
        policy: another policy.
        max_overtakes: see `PlannerSettings`.
    """

    def __init__(self, policy: str = "plas", max_overtakes: int | None = None) -> None:
        settings = PlannerSettings(hold_s=10.0, max_overtakes=max_overtakes)
        self.planner = Planner(make_policy(policy, Levels((1.0,))), settings)
        self.busy = self.arrive("busy", 10, 0.0)
        self.plan(0.0)

    def arrive(self, program: str, tokens: int, now: float, number: int = 0, base_s: float = 0.0) -> Call:
        """A call arrives."""
        call = make_call(program, number, base_s, tokens)
        self.planner.arrive(call, now)
        return call

    def plan(self, now: float) -> Plan:
        """Return what is planned for 100 tokens."""
        return self.planner.plan(DEVICE, now)

    def pause(self, program: str, tokens: int, now: float, base_s: float = 0.0) -> bool:
        """A program makes a call that leaves `tokens` of KV, and goes to its tools; return whether they are held."""
        call = self.arrive(program, tokens, now, base_s=base_s)
        assert call in self.plan(now).admit
        self.planner.joined(call, now)
        return self.planner.remove(call, now, tokens)


def test_call_that_is_not_better_waits_for_a_hold_to_become_stale() -> None:
    """60 tokens are held and 10 run; 40 more do not fit until the hold is 10 s old."""
    device = Device()
    assert device.pause("away", 60, 0.0)
    new = device.arrive("new", 40, 1.0)
    assert device.plan(9.9) == Plan((), ())
    assert device.plan(10.0) == Plan((new,), (), (ProgramId("away"),))


def test_better_call_takes_the_room_of_the_worst_hold_at_once() -> None:
    """Two programs are away; the one with more service has the worse place in line, and one is enough."""
    device = Device()
    device.pause("light", 40, 0.0)
    device.pause("heavy", 40, 0.0, base_s=5.0)
    new = device.arrive("new", 30, 1.0)
    assert device.plan(1.0) == Plan((new,), (), (ProgramId("heavy"),))


def test_worse_running_call_leaves_before_a_better_hold() -> None:
    """The batch and the holds are one line."""
    device = Device()
    device.pause("away", 50, 0.0)
    heavy = device.arrive("heavy", 40, 1.0, base_s=5.0)
    assert device.plan(1.0).admit == (heavy,)
    new = device.arrive("new", 30, 2.0)
    assert device.plan(2.0) == Plan((new,), (heavy,))


def test_what_is_held_is_room_for_the_programs_own_call() -> None:
    """It passes a call that does not fit, as nobody else could use the room."""
    device = Device()
    device.pause("away", 60, 0.0)
    new, back = device.arrive("new", 40, 1.0), device.arrive("away", 70, 1.0, number=1)
    assert device.plan(1.0) == Plan((back,), ())
    assert not new.running


def test_what_is_held_stays_until_a_call_of_the_program_runs() -> None:
    """The engine does not let in whom the plan admits: tokens, place in line and age of the hold are as they were."""
    device = Device()
    device.pause("away", 60, 0.0)
    new, back = device.arrive("new", 40, 1.0), device.arrive("away", 70, 1.0, number=1)
    for now in (1.0, 2.0):
        assert device.plan(now) == Plan((back,), ())
        assert (set(device.planner.held), device.planner.held_tokens) == ({"away"}, 60)
        device.planner.left(back, now)
    device.planner.remove(back, 3.0)
    assert device.plan(9.9) == Plan((), ())
    assert device.plan(10.0) == Plan((new,), (), (ProgramId("away"),))
    device = Device()
    device.pause("away", 60, 0.0)
    back = device.arrive("away", 70, 1.0, number=1)
    assert device.plan(1.0) == Plan((back,), ())
    device.planner.joined(back, 1.0)
    assert (set(device.planner.held), device.planner.held_tokens) == (set(), 0)


def test_what_a_call_leaves_replaces_what_was_held_before_it() -> None:
    """It ran so shortly that it was never seen to; one that was aborted leaves nothing, and changes nothing."""
    device = Device()
    device.pause("away", 60, 0.0)
    back, aborted = (device.arrive("away", 20, 1.0, number=number) for number in (1, 2))
    device.plan(1.0)
    assert not device.planner.remove(aborted, 1.0)
    assert device.planner.held_tokens == 60
    assert device.planner.remove(back, 1.0, 80)
    assert device.planner.held_tokens == 80
    assert device.planner.release_worst(1.0)
    assert not device.planner.held


def test_hold_becomes_what_the_next_call_shares() -> None:
    """The rest is room; nothing is held of a program whose next call shares nothing."""
    device = Device()
    device.pause("away", 60, 0.0)
    device.planner.resize_hold(ProgramId("away"), -10)
    assert device.planner.held_tokens == 50
    new = device.arrive("new", 40, 1.0)
    assert device.plan(1.0) == Plan((new,), ())
    device.planner.resize_hold(ProgramId("away"), 5)
    assert device.planner.held_tokens == 55
    device.planner.resize_hold(ProgramId("away"), -60)
    assert not device.planner.held


def test_back_call_that_outgrew_the_room_waits_with_the_others() -> None:
    """It may pass, not push."""
    device = Device()
    device.pause("away", 60, 0.0)
    device.arrive("new", 40, 1.0)
    device.arrive("away", 95, 1.0, number=1)
    assert device.plan(1.0) == Plan((), ())


def test_running_calls_that_outgrow_the_device_push_out_holds_that_are_worse() -> None:
    """A hold has no call that would lose its place."""
    device = Device()
    device.pause("away", 60, 0.0)
    call = device.arrive("grows", 30, 1.0)
    assert device.plan(1.0) == Plan((call,), ())
    call.kv_tokens = 35
    assert device.plan(2.0) == Plan((), (call,))
    device = Device()
    call = device.arrive("grows", 30, 1.0)
    device.plan(1.0)
    device.pause("away", 60, 2.0)
    call.kv_tokens = 35
    assert device.plan(3.0) == Plan((), (), (ProgramId("away"),))


def test_hold_never_leaves_the_engine_idle() -> None:
    """When nothing runs, the first call that waits comes in, at the cost of the worst holds."""
    device = Device()
    device.pause("first", 40, 0.0)
    device.pause("second", 40, 0.0)
    device.planner.remove(device.busy, 0.5)
    new = device.arrive("new", 50, 1.0)
    assert device.plan(1.0) == Plan((new,), (), (ProgramId("second"),))


def test_last_call_that_runs_stays_rather_than_a_better_hold() -> None:
    """It outgrew the device beside what is held, and nobody else runs."""
    device = Device()
    device.pause("away", 60, 0.0)
    heavy = device.arrive("heavy", 30, 0.0, base_s=5.0)
    assert device.plan(0.0).admit == (heavy,)
    device.planner.remove(device.busy, 0.5)
    heavy.kv_tokens = 45
    assert device.plan(1.0) == Plan((), (), (ProgramId("away"),))


def test_call_that_must_come_in_takes_back_what_is_held_for_it() -> None:
    """Its own program has the worst hold, and that is not enough."""
    device = Device()
    device.pause("first", 40, 0.0)
    device.pause("second", 40, 0.0)
    device.planner.remove(device.busy, 0.5)
    back = device.arrive("second", 70, 1.0, number=1)
    assert device.plan(1.0) == Plan((back,), (), (ProgramId("first"),))


def test_call_for_which_others_would_leave_in_vain_changes_nothing() -> None:
    """A worse one runs, but its room and what is free are not enough, and the hold is better."""
    device = Device()
    device.pause("away", 60, 0.0)
    heavy = device.arrive("heavy", 10, 0.0, base_s=5.0)
    assert device.plan(0.0).admit == (heavy,)
    device.planner.remove(device.busy, 0.5)
    device.arrive("new", 50, 1.0)
    assert device.plan(1.0) == Plan((), ())


def test_worse_hold_leaves_where_the_host_has_no_room_for_a_worse_call() -> None:
    """The hold is better than the call that runs, but a running call does not lose its KV to a better one."""
    device = Device()
    device.pause("away", 50, 0.0, base_s=2.0)
    heavy = device.arrive("heavy", 40, 1.0, base_s=5.0)
    assert device.plan(1.0).admit == (heavy,)
    new = device.arrive("new", 30, 2.0)
    assert device.planner.plan(Capacity(9, 100, 39), 2.0) == Plan((new,), (), (ProgramId("away"),))


def test_call_that_gives_up_leaves_the_hold_as_it_was() -> None:
    """Who asks and goes away gains no time; another call of the program that waits may pass in its place."""
    device = Device()
    device.pause("away", 60, 0.0)
    gone, back = (device.arrive("away", 60, 1.0, number=number) for number in (1, 2))
    new = device.arrive("new", 40, 1.0)
    assert not device.planner.remove(gone, 5.0, 60)
    assert not device.planner.remove(back, 5.0, 60)
    assert device.plan(9.9) == Plan((), ())
    assert device.plan(10.0) == Plan((new,), (), (ProgramId("away"),))
    device = Device()
    device.pause("away", 60, 0.0)
    device.arrive("new", 40, 1.0)
    gone, back = (device.arrive("away", 60, 1.0, number=number) for number in (1, 2))
    device.planner.remove(gone, 2.0)
    assert device.plan(2.0) == Plan((back,), ())


def test_no_call_passes_one_that_had_to_leave() -> None:
    """The call that outgrew the device is better than the one whose program is held."""
    device = Device()
    device.pause("away", 60, 0.0)
    call = device.arrive("grows", 30, 1.0)
    device.plan(1.0)
    device.arrive("new", 30, 2.0)
    device.arrive("away", 10, 2.0, number=1)
    call.kv_tokens = 35
    assert device.plan(2.0) == Plan((), (call,))


def test_ended_program_is_held_no_longer() -> None:
    """Its KV is of no use to anyone."""
    device = Device()
    device.pause("ended", 60, 0.0)
    device.planner.program_ended(ProgramId("ended"), "", 1.0, 0.5)
    new = device.arrive("new", 40, 1.0)
    assert device.plan(1.0) == Plan((new,), ())


def test_program_with_another_call_in_flight_is_not_held_yet() -> None:
    """Its last call in flight leaves the hold."""
    device = Device()
    one, other = device.arrive("fork", 20, 0.0), device.arrive("fork", 20, 0.0, number=1)
    device.plan(0.0)
    device.planner.joined(one, 0.0)
    device.planner.joined(other, 0.0)
    assert not device.planner.remove(one, 1.0, 40)
    assert device.planner.remove(other, 1.0, 40)


def protected(tokens: int) -> tuple[Device, Call]:
    """A call of a heavy program, overtaken once by one whose program is held still, 60 tokens, and comes back."""
    device = Device(max_overtakes=1)
    device.pause("away", 60, 0.0)
    old, back = device.arrive("old", tokens, 1.0, base_s=5.0), device.arrive("away", 20, 1.0, number=1)
    assert device.plan(1.0).admit == (back,)
    device.planner.remove(back, 2.0, 60)
    device.arrive("away", 20, 2.0, number=2)
    return device, old


def test_protected_call_is_not_passed() -> None:
    """The bound on overtaking holds against calls of programs that are held: neither they nor their KV are better."""
    device, old = protected(80)
    assert device.plan(2.0) == Plan((old,), (), (ProgramId("away"),))
    device, old = protected(95)
    assert device.planner.plan(Capacity(9, 100, 0), 2.0) == Plan((), ())


def test_protection_ends_with_the_call() -> None:
    """What its program leaves on the device stands where the policy puts the program."""
    device, old = protected(80)
    device.plan(2.0)
    assert device.planner.remove(old, 3.0, 80)
    new = device.arrive("new", 50, 3.0)
    assert device.plan(3.0).release == (ProgramId("old"),)
    assert new.running


@pytest.mark.parametrize("policy", ["fcfs", "lpm", "mlfq"])
def test_policies_that_know_of_calls_only_hold_nothing(policy: str) -> None:
    """They stand for engines as they are."""
    assert not Device(policy).pause("away", 60, 0.0)
