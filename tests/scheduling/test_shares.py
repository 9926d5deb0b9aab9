"""Shares between tenants: the account at the gateway, the debts at a planner, and what they do to calls that wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_engine import make_call

from autellix_server.scheduling.call import Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import Planner, PlannerSettings
from autellix_server.scheduling.policies import make_policy
from autellix_server.scheduling.shares import UNUSED_CALLS, Shares, TenantDebts, TenantStanding

S = 1_000_000


def serve(shares: Shares, tenant: str, *services_s: float, weight: float = 1.0) -> None:
    """Let calls of a tenant come and go, one after the other."""
    for service_s in services_s:
        shares.arrive(tenant, weight)
        shares.complete(tenant, service_s)


def test_service_counts_by_weight() -> None:
    """Who weighs three times as much is charged a third."""
    shares = Shares()
    shares.arrive("a", 3.0)
    shares.arrive("b", 1.0)
    serve(shares, "a", 6.0, weight=3.0)
    serve(shares, "b", 6.0)
    assert shares.arrive("a", 3.0) == TenantStanding("a", 2 * S, 3.0)
    assert shares.arrive("b") == TenantStanding("b", 6 * S, 1.0)


def test_who_comes_back_is_lifted_to_the_least_served_of_the_busy() -> None:
    """Idleness saves nothing up, also while nobody else is there."""
    shares = Shares()
    serve(shares, "a", 1.0)
    serve(shares, "b", 5.0)
    shares.arrive("b")
    assert shares.arrive("a").service_us == 6 * S  # b was lifted to a's second, then had five more.
    shares.complete("a", 0.0)
    shares.complete("b", 4.0)
    assert shares.arrive("a").service_us == 10 * S


def test_who_is_ahead_stays_so_while_idle() -> None:
    """To leave and come back rids nobody of a debt."""
    shares = Shares()
    shares.arrive("a")
    serve(shares, "b", 9.0)
    assert shares.arrive("b").service_us - shares.arrive("a").service_us == 9 * S


def test_a_share_left_unused_is_lost_beyond_some_turns() -> None:
    """A tenant with one endless call in flight cannot come back for all that others had meanwhile."""
    shares = Shares()
    shares.arrive("a")
    serve(shares, "b", *[2.0] * 1000)
    behind_us = shares.arrive("b").service_us - shares.arrive("a").service_us
    assert behind_us == UNUSED_CALLS * 2 * S


def test_a_call_that_nobody_billed_is_charged_like_the_others() -> None:
    """A client that leaves before the end of every call has its share and no more."""
    shares = Shares()
    shares.arrive("a")
    serve(shares, "a", 3.0, 3.0)
    shares.arrive("b")
    before_us = shares.arrive("b").service_us
    shares.complete("b", None)
    shares.complete("b", 0.0)
    assert shares.arrive("b").service_us - before_us == 3 * S


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0.0, 100.0)), max_size=60))
def test_standings_never_fall_and_stay_close(events: list[tuple[str, bool, float]]) -> None:
    """Whatever comes and goes; of those with calls in flight nobody is further behind than the unused share allows."""
    shares, flying = Shares(), dict.fromkeys("abc", 0)
    seen = dict.fromkeys("abc", 0)
    for tenant, arrives, service_s in events:
        if arrives:
            flying[tenant] += 1
            now_us = shares.arrive(tenant).service_us
            assert now_us >= seen[tenant]
            seen[tenant] = now_us
        elif flying[tenant]:
            flying[tenant] -= 1
            shares.complete(tenant, service_s)
    assert {name for name, calls in flying.items() if calls} == shares._busy.keys()


def test_debt_is_what_a_tenant_has_above_the_least_served_here() -> None:
    """A level for each quantum, in service of the heaviest; by what was told and what was served since."""
    debts = TenantDebts()
    debts.enter(TenantStanding("a", 10 * S))
    assert debts.settle(2.0) == set()
    debts.enter(TenantStanding("b", 4 * S))
    assert debts.settle(2.0) == {"a"}
    assert (debts.levels("a"), debts.levels("b")) == (3, 0)
    debts.credit("b", 7.0)
    debts.leave("b", 7.0)
    assert (debts.settle(2.0), debts.levels("a"), debts.levels("b")) == ({"a"}, 0, 0)
    debts.enter(TenantStanding("b", 11 * S))  # What it was served is in what the gateway says now.
    debts.credit("b", 1.0)
    assert (debts.settle(2.0), debts.levels("b")) == ({"b"}, 1)


def test_debts_go_by_the_service_of_the_heaviest() -> None:
    """So that a heavy tenant's share does not come in long turns."""
    debts = TenantDebts()
    debts.enter(TenantStanding("a", 0, 3.0))
    debts.enter(TenantStanding("b", 0, 1.0))
    debts.credit("b", 2.0)
    assert (debts.settle(2.0), debts.levels("b")) == ({"b"}, 3)


def test_the_last_tenant_there_has_no_debt() -> None:
    """A debt is towards somebody."""
    debts = TenantDebts()
    debts.enter(TenantStanding("a", 10 * S))
    debts.enter(TenantStanding("b"))
    debts.settle(1.0)
    debts.leave("b", 0.0)
    assert (debts.settle(1.0), debts.levels("a")) == ({"a"}, 0)


def planner(**settings: object) -> Planner:
    """A planner with bounds at 1, 2 and 4 s; two seconds ahead is a level of debt."""
    return Planner(make_policy("plas", geometric_levels(4, 1.0)), PlannerSettings(**settings))  # type: ignore[arg-type]


def call_of(tenant: str, program: str, service_s: float = 0.0, base_s: float = 0.0, **fields: object) -> Call:
    """A call of a tenant that has had `service_s`."""
    return make_call(program, base_s=base_s, tenant=TenantStanding(tenant, round(service_s * S)), **fields)


def admitted(plan_with: Planner, now: float, slots: int = 1) -> list[str]:
    """The programs of the calls that a plan lets in."""
    return [call.context.program for call in plan_with.plan(Capacity(slots, 10**6, 10**6), now).admit]


def test_a_debt_outweighs_any_level_of_the_policy() -> None:
    """A fresh program of a tenant ahead waits behind the oldest of one that is behind, if it is ahead by enough."""
    for ahead_s, first in ((5.0, "fresh"), (8.0, "old")):
        line = planner()
        line.arrive(call_of("ahead", "fresh", ahead_s), 0.0)
        line.arrive(call_of("behind", "old", base_s=100.0), 0.0)
        assert admitted(line, 0.0) == [first]


def test_calls_that_wait_follow_what_is_served_meanwhile() -> None:
    """No new call of either has to come for the debts to change."""
    line = planner()
    running, waiting = call_of("a", "a1"), call_of("a", "a2")
    for call in (running, waiting):
        line.arrive(call, 0.0)
    assert admitted(line, 0.0) == ["a1"]
    late = call_of("b", "b1", base_s=1.5)
    line.arrive(late, 1.0)
    line.credit(running, 9.0, 9.0)
    line.remove(running, 9.0)
    assert admitted(line, 9.0) == ["b1"]
    assert (waiting.debt_levels, waiting.level, waiting.key[0]) == (4, 0, 4)


def test_what_runs_is_not_sent_away_for_a_debt_that_grew() -> None:
    """It took its place by the debts of that time; sent away, tenants would take turns step by step."""
    line = Planner(make_policy("fcfs", geometric_levels(4, 1.0)))
    running = call_of("a", "a1")
    line.arrive(running, 0.0)
    line.plan(Capacity(1, 10**6, 10**6), 0.0)
    line.arrive(call_of("b", "b1"), 1.0)
    line.credit(running, 50.0, 50.0)
    assert line.plan(Capacity(1, 10**6, 10**6), 50.0).preempt == ()
    line.left(running, 60.0)
    assert (admitted(line, 60.0), running.debt_levels) == (["b1"], 25)


def test_a_starved_program_goes_to_the_head_of_its_own_tenant() -> None:
    """Who has many programs starves them by itself: what it is ahead stays with the call that is promoted."""
    line = planner(beta=2.0)
    starved = call_of("ahead", "starved", 20.0, base_s=5.0)
    line.arrive(call_of("behind", "other", base_s=5.0), 0.0)
    line.arrive(starved, 0.0)
    line.plan(Capacity(1, 10**6, 10**6), 0.0)
    line.arrive(call_of("ahead", "fresh", 20.0, base_s=1.0), 1.0)
    line.plan(Capacity(1, 10**6, 10**6), 100.0)
    assert (starved.level, starved.debt_levels) == (0, 10)


def test_the_bound_on_overtaking_holds_between_tenants() -> None:
    """However far ahead its tenant is, a call goes first when so many that came later have passed it."""
    line = planner(max_overtakes=3)
    line.arrive(call_of("ahead", "ahead", 1000.0), 0.0)
    order = []
    for turn in range(5):
        line.arrive(call_of("behind", f"b{turn}", number=turn), float(turn))
        (program,) = admitted(line, float(turn))
        order.append(program)
        (runs,) = list(line._running)
        line.remove(runs, float(turn))
    assert order == ["b0", "b1", "b2", "ahead", "b3"]


@pytest.mark.parametrize("policy", ["plas", "fcfs"])
def test_without_tenants_nobody_has_a_debt(policy: str) -> None:
    """Whatever was served: levels are the policy's."""
    line = Planner(make_policy(policy, geometric_levels(4, 1.0)))
    calls = [make_call(f"p{number}", number) for number in range(3)]
    for call in calls:
        line.arrive(call, 0.0)
    line.plan(Capacity(1, 10**6, 10**6), 0.0)
    line.credit(calls[0], 50.0, 1.0)
    line.plan(Capacity(1, 10**6, 10**6), 1.0)
    assert [call.debt_levels for call in calls] == [0, 0, 0]
