"""Guards against starvation: by waiting over service, and by overtaking."""

from __future__ import annotations

from collections import Counter
from math import inf
from random import Random

import pytest
from small_engine import make_call

from autellix_server.scheduling import starvation
from autellix_server.scheduling.call import PROTECTED_RANK, Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import Planner, PlannerSettings
from autellix_server.scheduling.policies import POLICIES, make_policy
from autellix_server.scheduling.starvation import WaitGuard

ONE = Capacity(slots=1, kv_tokens=10**6, host_tokens=10**6)


def planner(policy: str = "plas", beta: float = inf, max_overtakes: int | None = None) -> Planner:
    """A planner whose levels end at 1, 2 and 4 s."""
    settings = PlannerSettings(beta=beta, max_overtakes=max_overtakes)
    return Planner(make_policy(policy, geometric_levels(4, 1.0)), settings)


def blocked(at: Planner, **fields: float) -> Call:
    """A call that waits behind a better one which runs for ever."""
    best, call = make_call("best"), make_call("old", **fields)  # type: ignore[arg-type]
    at.arrive(best, 0.0)
    at.plan(ONE, 0.0)
    at.arrive(call, 0.0)
    return call


def test_program_that_waited_beta_times_its_service_is_promoted() -> None:
    """Service 4 s, beta 2: after 8 s of waiting, of which 5 s came from earlier calls, it goes to the top."""
    at = planner(beta=2.0)
    call = blocked(at, base_s=4.0, base_wait_s=5.0)
    at.plan(ONE, 2.9)
    assert call.level == 3
    at.plan(ONE, 3.0)
    assert (call.level, call.quantum_s) == (0, 1.0)


def test_promoted_call_sinks_again_through_every_level() -> None:
    """It has the quantum of the best level, then that of the next."""
    at = planner(beta=2.0)
    call = blocked(at, base_s=4.0, base_wait_s=8.0)
    at.plan(ONE, 0.0)
    at.credit(call, 1.0, 1.0)
    assert (call.level, call.quantum_s) == (1, 1.0)


def test_after_a_promotion_the_window_begins_anew() -> None:
    """What the program waited and was served before counts no more: with T = 0 nothing is starved."""
    at = planner(beta=2.0)
    call = blocked(at, base_s=4.0, base_wait_s=8.0)
    at.plan(ONE, 0.0)
    at.remove(call, 0.0)
    later = make_call("old", number=1, base_s=4.0, base_wait_s=8.0)
    at.arrive(later, 0.0)
    at.plan(ONE, 1000.0)
    assert later.level == 3
    at.remove(later, 1000.0)
    served = make_call("old", number=2, base_s=5.0, base_wait_s=8.0)
    at.arrive(served, 1000.0)
    at.plan(ONE, 1001.9)
    assert served.level == 3
    at.plan(ONE, 1002.0)
    assert served.level == 0


def test_new_program_is_not_starved_whatever_it_waits() -> None:
    """Without service there is no ratio; it is at the top anyway."""
    at = planner(beta=0.001)
    call = blocked(at)
    sequence = call.sequence
    at.plan(ONE, 1e6)
    assert call.sequence == sequence


def test_calls_that_are_gone_do_not_pile_up_in_the_guard() -> None:
    """A wait may be due long after its call has finished."""
    at = planner(beta=1e9)
    for number in range(5000):
        call = make_call(number=number, base_s=1.0)
        at.arrive(call, float(number))
        at.remove(call, float(number))
    guard: WaitGuard = at._wait_guard
    assert len(guard._due) <= 1025


@pytest.mark.parametrize("policy", ["plas", "atlas", "gittins", "srpt", "lpm"])
@pytest.mark.parametrize("limit", [1, 5, 40])
def test_overtaken_call_runs_at_the_bound(policy: str, limit: int) -> None:
    """One slot, and for ever a better call that came later: exactly `limit` go before the old one."""
    at = planner(policy, max_overtakes=limit)
    old = make_call("old", base_s=50.0, remaining_s=50.0)
    at.arrive(old, 0.0)
    passed = 0
    for number in range(1, 100):
        better = make_call(f"p{number}", remaining_s=1.0, cached_tokens=9)
        at.arrive(better, float(number))
        (admitted,) = at.plan(ONE, float(number)).admit
        if admitted is old:
            break
        passed += 1
        at.remove(better, float(number))
    assert passed == limit
    assert old.rank == PROTECTED_RANK


@pytest.mark.parametrize("policy", POLICIES)
def test_wait_is_bounded_in_overload(policy: str) -> None:
    """Twice the load that two slots can serve, every call 1 s: no call waits longer than the stated worst case.

    A calls before it, `limit` and n - 1 overtakings, one second each, two at a time: (A + limit + n - 1) / 2 s, and one
    second more since steps are whole.
    """
    limit, slots = 6, 2
    at = planner(policy, beta=4.0, max_overtakes=limit)
    live: list[Call] = []
    found: dict[int, int] = {}
    for now in range(120):
        for index in range(4 if now < 60 else 0):
            number = 4 * now + index
            call = make_call(f"p{number % 7}", number, float(number % 5), cached_tokens=number % 3)
            call.remaining_s, call.arrived_s = float(number % 11), float(now)
            found[number] = len(live)
            live.append(call)
            at.arrive(call, float(now))
        at.plan(Capacity(slots, 10**6, 10**6), float(now))
        for call in [call for call in live if call.running]:
            live.remove(call)
            at.remove(call, now + 1.0)
            before = found[int(call.context.call.removeprefix("0."))]
            assert call.wait_s <= (before + limit + slots - 1) / slots + 1
    assert not live


@pytest.mark.parametrize("policy", ["fcfs", "plas", "srpt"])
def test_overtaking_is_counted_exactly(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a long run with preemptions, calls are protected at the very plan by which they were overtaken too often."""
    monkeypatch.setattr(starvation, "_LEAST_PLACES", 32)
    limit, random = 60, Random(policy)
    at = planner(policy, max_overtakes=limit)
    live: list[Call] = []
    overtaken: Counter[Call] = Counter()
    protected = 0
    for number in range(1500):
        call = make_call(f"p{number}", number, random.expovariate(0.5), remaining_s=random.expovariate(0.5))
        live.append(call)
        at.arrive(call, float(number))
        if number < 40:
            continue
        waiting = [call for call in live if not call.running]
        due = {call for call in waiting if overtaken[call] >= limit}
        plan = at.plan(Capacity(3, 10**6, 10**6), float(number))
        assert {call for call in waiting if call.rank == PROTECTED_RANK} == due
        protected += len(due)
        for call in live:
            if not call.running:
                overtaken[call] += sum(later.ticket > call.ticket for later in plan.admit)
        running = [call for call in live if call.running]
        for call in running:
            at.credit(call, random.random(), float(number))
        done = random.choice(running)
        live.remove(done)
        at.remove(done, float(number))
    assert (protected > 0) == (policy != "fcfs")


def test_checks_of_calls_that_are_gone_do_not_pile_up() -> None:
    """Nor do their tickets: a server that runs for years remembers the live ones and some thousand more."""
    at = planner(max_overtakes=1 << 14)
    for number in range(5000):
        call = make_call(number=number)
        at.arrive(call, float(number))
        at.plan(ONE, float(number))
        at.remove(call, float(number))
    guard = at._overtaking_guard
    assert len(guard._checks) <= 1024
    assert len(guard._tickets) <= 1024


def test_protected_calls_run_by_arrival_and_are_not_preempted_by_later_ones() -> None:
    """Two calls overtaken too often: the earlier one goes first, and a new call at the top waits for it."""
    at = planner(max_overtakes=1)
    first, second = make_call("first", base_s=3.0), make_call("second", base_s=9.0)
    at.arrive(first, 0.0)
    at.arrive(second, 0.0)
    new = make_call("new")
    at.arrive(new, 1.0)
    assert at.plan(ONE, 1.0).admit == (new,)
    at.remove(new, 2.0)
    at.arrive(make_call("newer"), 2.0)
    assert at.plan(ONE, 2.0).admit == (first,)
    at.credit(first, 100.0, 102.0)
    at.arrive(make_call("newest"), 102.0)
    plan = at.plan(ONE, 102.0)
    assert (plan.admit, plan.preempt) == ((), ())
    at.remove(first, 103.0)
    assert at.plan(ONE, 103.0).admit == (second,)


def test_reorder_leaves_a_protected_call_where_it_is() -> None:
    """Nothing that a driver changes takes the protection away."""
    at = planner("lpm", max_overtakes=1)
    old = make_call("old")
    at.arrive(old, 0.0)
    better = make_call("better", cached_tokens=5)
    at.arrive(better, 0.0)
    at.plan(ONE, 0.0)
    at.remove(better, 1.0)
    at.arrive(make_call("other", cached_tokens=5), 1.0)
    at._promote(1.0)
    at.reorder(old)
    assert at.plan(ONE, 1.0).admit == (old,)
