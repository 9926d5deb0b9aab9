"""The planner, case by case; `test_planner_properties` holds what is true of every sequence of events."""

from __future__ import annotations

import pytest
from small_engine import make_call

from autellix_sdk.errors import ConfigurationError
from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.call import Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import Plan, Planner, PlannerSettings
from autellix_server.scheduling.policies import make_policy
from autellix_server.scheduling.policies.attained import Plas

LEVELS = geometric_levels(count=4, first_bound_s=1.0)
ROOMY = Capacity(slots=100, kv_tokens=10**6, host_tokens=10**6)


def planner(policy: str = "plas", **settings: float | None) -> Planner:
    """A planner whose levels end at 1, 2 and 4 s."""
    return Planner(make_policy(policy, LEVELS), PlannerSettings(**settings))  # type: ignore[arg-type]


def slots(count: int) -> Capacity:
    """Room for `count` calls, and any amount of KV."""
    return Capacity(count, 10**6, 10**6)


def enter(to: Planner, *calls: Call) -> None:
    """Let calls arrive at time 0."""
    for call in calls:
        to.arrive(call, 0.0)


def test_better_levels_run_first_and_equals_by_arrival() -> None:
    """Programs with 3 s, nothing and nothing attained, one slot each time."""
    plan_of = planner()
    old, new, newer = make_call("old", base_s=3.0), make_call("new"), make_call("newer")
    enter(plan_of, old, new, newer)
    for expected in (new, newer, old):
        assert plan_of.plan(slots(1), 1.0) == Plan((expected,), ())
        plan_of.remove(expected, 2.0)
    assert (plan_of.waiting, plan_of.running) == (0, 0)


def test_running_call_is_preempted_for_a_better_one() -> None:
    """It keeps its sequence: back in line it is ahead of what came to its level after it."""
    plan_of = planner()
    old, other = make_call("old", base_s=3.0), make_call("other", base_s=3.0)
    enter(plan_of, old, other)
    plan_of.plan(slots(1), 0.0)
    new = make_call("new")
    plan_of.arrive(new, 1.0)
    assert plan_of.plan(slots(1), 1.0) == Plan((new,), (old,))
    plan_of.remove(new, 2.0)
    assert plan_of.plan(slots(1), 2.0) == Plan((old,), ())


@pytest.mark.parametrize(("margin", "displaced"), [(0, True), (2, True), (3, False)])
def test_call_displaces_only_what_is_worse_by_the_margin(
    margin: int, displaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Levels 0 and 2: a call that is not better by as many levels waits, though it is better."""
    monkeypatch.setattr(Plas, "margin", margin)
    plan_of = planner()
    old, new = make_call("old", base_s=3.0), make_call("new")
    plan_of.arrive(old, 0.0)
    plan_of.plan(slots(1), 0.0)
    plan_of.arrive(new, 1.0)
    assert plan_of.plan(slots(1), 1.0) == (Plan((new,), (old,)) if displaced else Plan((), ()))


def test_protected_call_displaces_whatever_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on overtaking holds for every policy."""
    monkeypatch.setattr(Plas, "margin", 9)
    plan_of = planner(max_overtakes=1)
    runs, late, waits = make_call("runs"), make_call("late"), make_call("waits", base_s=9.0)
    enter(plan_of, runs)
    plan_of.plan(slots(1), 0.0)
    enter(plan_of, waits, late)
    plan_of.remove(runs, 1.0)
    assert plan_of.plan(slots(1), 1.0).admit == (late,)
    assert plan_of.plan(slots(1), 2.0) == Plan((waits,), (late,))


def test_spent_quantum_demotes_to_the_tail_of_the_next_level() -> None:
    """A call that has run 1 s joins level 1 behind one that starts there."""
    plan_of = planner()
    first, second = make_call("first"), make_call("second", base_s=1.5)
    enter(plan_of, first, second)
    plan_of.plan(slots(1), 0.0)
    plan_of.credit(first, 0.5, 0.5)
    assert (first.level, first.quantum_s) == (0, 0.5)
    plan_of.credit(first, 0.5, 1.0)
    assert (first.level, first.quantum_s) == (1, 1.0)
    assert plan_of.plan(slots(1), 1.0) == Plan((second,), (first,))


def test_last_level_never_demotes() -> None:
    """A call there runs for ever without moving."""
    plan_of = planner()
    call = make_call(base_s=50.0)
    enter(plan_of, call)
    plan_of.plan(ROOMY, 0.0)
    plan_of.credit(call, 1e6, 1e6)
    assert call.level == LEVELS.count - 1


def test_first_call_that_does_not_fit_stops_the_walk() -> None:
    """A small call behind a large one does not slip past it."""
    plan_of = planner("fcfs")
    small, large, tiny = make_call("s", tokens=50), make_call("l", tokens=60), make_call("t", tokens=1)
    enter(plan_of, small, large, tiny)
    assert plan_of.plan(Capacity(9, 100, 10**6), 0.0) == Plan((small,), ())
    assert plan_of.waiting == 2


def test_running_call_behind_one_that_cannot_fit_is_kept() -> None:
    """Nobody else could use its room: the best call leaves 40 tokens, the next needs 60, and the worst runs in 30."""
    plan_of = planner()
    best, worst = make_call("best", tokens=60), make_call("worst", base_s=3.0, tokens=30)
    enter(plan_of, best, worst)
    plan_of.plan(Capacity(9, 100, 10**6), 0.0)
    enter(plan_of, make_call("next", base_s=1.0, tokens=60))
    assert plan_of.plan(Capacity(9, 100, 10**6), 1.0) == Plan((), ())


def test_calls_that_outgrow_the_device_make_the_worst_leave() -> None:
    """Even where the host has no room: the engine must go on."""
    plan_of = planner()
    best, worst = make_call("best", tokens=50), make_call("worst", base_s=3.0, tokens=50)
    enter(plan_of, best, worst)
    plan_of.plan(Capacity(9, 100, 0), 0.0)
    best.kv_tokens += 1
    assert plan_of.plan(Capacity(9, 100, 0), 1.0) == Plan((), (worst,))


def test_no_running_call_loses_its_kv_to_a_better_one() -> None:
    """A host with room for 29 tokens takes no KV of 30; with room for 30 it does."""
    plan_of = planner()
    old, new = make_call("old", base_s=3.0, tokens=30), make_call("new", tokens=90)
    enter(plan_of, old)
    plan_of.plan(Capacity(9, 100, 29), 0.0)
    enter(plan_of, new)
    assert plan_of.plan(Capacity(9, 100, 29), 1.0) == Plan((), ())
    assert plan_of.plan(Capacity(9, 100, 30), 1.0) == Plan((new,), (old,))


def test_waiting_time_is_kept_across_preemption() -> None:
    """Two seconds before it ran, three after it was preempted."""
    plan_of = planner()
    old = make_call("old", base_s=3.0)
    enter(plan_of, old)
    plan_of.plan(ROOMY, 2.0)
    new = make_call("new")
    plan_of.arrive(new, 5.0)
    plan_of.plan(slots(1), 5.0)
    plan_of.remove(new, 8.0)
    plan_of.plan(slots(1), 8.0)
    assert old.wait_s == 5.0


def test_aborted_call_leaves_wherever_it_is() -> None:
    """Waiting or running; a second time is an error."""
    plan_of = planner()
    runs, waits = make_call("runs"), make_call("waits")
    enter(plan_of, runs, waits)
    plan_of.plan(slots(1), 0.0)
    plan_of.remove(waits, 1.0)
    plan_of.remove(runs, 1.0)
    assert plan_of.plan(slots(1), 1.0) == Plan((), ())
    with pytest.raises(ValueError, match=r"call 0\.0 of program runs is not in line"):
        plan_of.remove(runs, 2.0)


def test_reorder_takes_up_what_the_driver_changed() -> None:
    """The cache has learned the prompt of a call that waits."""
    plan_of = planner("lpm")
    first, second = make_call("first", cached_tokens=10), make_call("second")
    enter(plan_of, first, second)
    second.cached_tokens = 20
    plan_of.reorder(second)
    assert plan_of.plan(slots(1), 0.0) == Plan((second,), ())


def test_nobody_leaves_for_a_longer_prefix() -> None:
    """The baseline does as SGLang: what is in the cache decides who is next, not who stays."""
    plan_of = planner("lpm")
    runs, longer = make_call("runs"), make_call("longer", cached_tokens=20)
    enter(plan_of, runs)
    assert plan_of.plan(slots(1), 0.0) == Plan((runs,), ())
    enter(plan_of, longer)
    assert plan_of.plan(slots(1), 0.0) == Plan((), ())


def test_program_order_survives_pauses_and_ends_with_the_program() -> None:
    """The first program's later calls go first until it ended; if it comes back, it is the last."""
    plan_of = planner("program-fcfs")
    first, second = make_call("a"), make_call("b")
    enter(plan_of, first, second)
    plan_of.remove(first, 1.0)
    again = make_call("a", number=1)
    plan_of.arrive(again, 2.0)
    assert again.key < second.key
    plan_of.remove(again, 3.0)
    plan_of.program_ended(ProgramId("a"), "", 1.0, 3.0)
    late = make_call("a", number=2)
    plan_of.arrive(late, 4.0)
    assert late.key > second.key


def test_idle_programs_remembered_are_bounded() -> None:
    """The one idle for longest is forgotten first; one with a call in flight never is."""
    plan_of = planner("program-fcfs", max_idle_programs=1)
    enter(plan_of, make_call("busy"))
    for name in "ab":
        call = make_call(name)
        plan_of.arrive(call, 0.0)
        plan_of.remove(call, 0.0)
    tickets = []
    for name in ("busy", "a", "b"):
        call = make_call(name, number=1)
        plan_of.arrive(call, 1.0)
        tickets.append(call.program_ticket)
    assert tickets[0] == 1
    assert tickets[1] > tickets[2] == 3


def test_service_in_flight_is_known_to_the_next_call_of_a_program() -> None:
    """Two calls in parallel; the second came when the first had had 3 s."""
    plan_of = planner("gittins")
    one, two = make_call("a"), make_call("a", number=1)
    plan_of.arrive(one, 0.0)
    plan_of.plan(ROOMY, 0.0)
    plan_of.credit(one, 3.0, 3.0)
    plan_of.arrive(two, 3.0)
    assert two.in_flight_s == 3.0
    assert two.level == one.level > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", 0.0),
        ("max_overtakes", 0),
        ("max_idle_programs", -1),
        ("hold_s", -1.0),
        ("steps_between_plans", 0),
        ("spares", -1),
    ],
)
def test_setting_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    """The message names the setting and its value."""
    with pytest.raises(ConfigurationError, match=f"{name} must be .*{value}"):
        planner(**{name: value})


def test_pinned_call_stays_for_whom_it_would_have_to_leave() -> None:
    """The engine could not carry its preemption out: the next worse one goes, or nobody."""
    plan_of = planner()
    pinned, free, fresh, late = make_call("a", base_s=9.0), make_call("b", base_s=3.0), make_call("c"), make_call("d")
    enter(plan_of, pinned, free)
    plan_of.plan(slots(2), 0.0)
    pinned.pinned = True
    enter(plan_of, fresh)
    assert plan_of.plan(slots(2), 1.0) == Plan((fresh,), (free,))
    fresh.pinned = True
    enter(plan_of, late)
    assert plan_of.plan(slots(2), 2.0) == Plan((), ())
    assert plan_of.plan(slots(1), 2.0) == Plan((), ())


def test_pinned_call_that_waits_is_passed_over() -> None:
    """Nobody leaves for it, and the next in line has its turn."""
    plan_of = planner()
    runs, first, second = make_call("a", base_s=9.0), make_call("b"), make_call("c", base_s=1.0)
    enter(plan_of, runs)
    plan_of.plan(slots(1), 0.0)
    enter(plan_of, first)
    first.pinned = True
    assert plan_of.best_waiting is None
    assert plan_of.plan(slots(2), 1.0) == Plan((), ())
    enter(plan_of, second)
    assert plan_of.best_waiting is second
    assert plan_of.plan(slots(1), 1.0) == Plan((second,), (runs,))
    first.pinned = False
    assert plan_of.plan(slots(1), 2.0) == Plan((first,), (second,))


def test_engine_that_departs_from_a_plan_is_followed() -> None:
    """A call that it lets in runs and waits no longer; one that it does not let in, or retracts, waits on."""
    plan_of = planner()
    first, second = make_call("a"), make_call("b")
    enter(plan_of, first, second)
    assert plan_of.plan(slots(1), 2.0).admit == (first,)
    plan_of.left(first, 2.0)
    plan_of.joined(second, 3.0)
    assert (plan_of.waiting, plan_of.running) == (1, 1)
    assert (second.wait_s, second.waits_from_s, first.wait_s, first.waits_from_s) == (3.0, None, 2.0, 2.0)
    assert plan_of.plan(slots(1), 5.0) == Plan((first,), (second,))
    assert first.wait_s == 5.0
