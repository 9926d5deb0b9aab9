"""Gittins: what it learns of a class, and how that orders programs."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from small_engine import make_call

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.hazards import Hazards
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.policies.gittins import Gittins

BINS = geometric_levels(count=12, first_bound_s=1.0, growth=2.0)
service = st.floats(0, 1e6)


def learned(*services_s: float, program_class: str = "agent") -> Gittins:
    """A policy that saw programs of a class end."""
    policy = Gittins(geometric_levels())
    for number, service_s in enumerate(services_s):
        policy.ended(ProgramId(f"p{number}"), program_class, service_s)
    return policy


def level(policy: Gittins, attained_s: float, program_class: str = "agent", in_flight_s: float = 0.0) -> int:
    """Level at which a call of a fresh program of a class would start."""
    call = make_call(f"fresh-{program_class}", base_s=attained_s, in_flight_s=in_flight_s, program_class=program_class)  # type: ignore[arg-type]
    return policy.start(call).level


@given(service, service)
@example(0.0, 0.125)
def test_without_data_the_least_attained_service_goes_first(one: float, other: float) -> None:
    """As under ATLAS."""
    policy = Gittins(geometric_levels())
    low, high = sorted((one, other))
    assert level(policy, low, "x") <= level(policy, high, "y")


def test_alike_programs_are_finished_in_order_of_progress() -> None:
    """When every program ends at 10 s, the one that had 9 s goes before the one that had 1 s: LAS would invert that."""
    policy = learned(*[10.0] * 50)
    assert level(policy, 9.0) < level(policy, 1.0)
    assert level(policy, 5.0) <= level(policy, 1.0)


def test_a_program_past_the_size_of_its_class_goes_back() -> None:
    """All known programs ended by 10 s; one that had 40 s may have any length."""
    policy = learned(*[10.0] * 50)
    assert level(policy, 40.0) > level(policy, 9.0)


def test_heavy_tails_put_the_least_attained_service_first() -> None:
    """With many short and few very long programs, attained service tells how much is to come."""
    policy = learned(*[0.1] * 40, *[100.0] * 10)
    assert level(policy, 0.0) < level(policy, 1.0)


def test_classes_learn_apart() -> None:
    """What one class does says nothing about another."""
    policy = learned(*[10.0] * 50)
    assert level(policy, 9.0, "agent") < level(policy, 9.0, "other")


def test_running_programs_are_censored_not_missing() -> None:
    """Ten ended at 1 s and ninety are past 30 s: most do not end at 1 s, though all that ended did."""
    policy = learned(*[1.0] * 10)
    before = level(policy, 0.9)
    for number in range(90):
        policy.start(make_call(f"alive{number}", base_s=30.0, program_class="agent"))  # type: ignore[arg-type]
    for number in range(10):
        policy.ended(ProgramId(f"late{number}"), "agent", 1.0)
    assert level(policy, 0.9) > before


def test_service_in_flight_counts() -> None:
    """A program whose parallel calls took 8 s stands where one stands that completed calls of 8 s."""
    policy = Gittins(geometric_levels())
    assert level(policy, 0.0, in_flight_s=8.0) == level(policy, 8.0) > level(policy, 0.0)


def test_program_held_back_again_and_again_comes_closer() -> None:
    """With 8 s of service: a program that waited 64 s counts as half as far from its end, two levels of half an octave.

    Without the guard waiting changes nothing.
    """
    for patience, gained in ((8.0, 2), (inf, 0)):
        policy = Gittins(geometric_levels(), patience)
        fresh, held = make_call("a", base_s=8.0), make_call("b", base_s=8.0, base_wait_s=64.0)
        assert policy.start(fresh).level - policy.start(held).level == gained


def test_call_moves_when_its_program_enters_the_next_bin() -> None:
    """The quantum reaches to the end of the bin, and the next place is that of the new bin."""
    policy = Gittins(geometric_levels())
    call = make_call(base_s=3.0)
    place = policy.start(call)
    call.service_s = place.quantum_s * 1.0001
    assert policy.move(call).level > place.level


def test_old_observations_fade() -> None:
    """A class that was long and is short now is known as short after a while."""
    policy = learned(*[100.0] * 600, *[1.0] * 2000)
    assert level(policy, 0.9) < level(policy, 50.0)
    assert level(policy, 0.9) <= level(learned(*[1.0] * 2000), 0.9) + 1


def test_programs_and_classes_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names come from clients, who may make up as many as they like."""
    monkeypatch.setattr("autellix_server.scheduling.policies.gittins._MAX_CLASSES", 5)
    monkeypatch.setattr("autellix_server.scheduling.policies.gittins._MAX_PROGRAMS", 7)
    policy = Gittins(geometric_levels())
    for number in range(50):
        policy.start(make_call(f"p{number}", program_class=f"c{number}"))  # type: ignore[arg-type]
    assert (len(policy._classes), len(policy._live)) == (5, 7)


def test_prior_gives_even_odds_to_double() -> None:
    """Under the prior the effort grows in proportion to attained service."""
    prior = Hazards(BINS, 2.0)
    efforts_s = [prior.effort_s(2.0**power) for power in range(1, 6)]
    assert [high / low for low, high in pairwise(efforts_s)] == pytest.approx([2.0] * 4)


def test_effort_of_certain_completion_is_a_mean_of_what_is_left_and_the_whole() -> None:
    """Programs that all end around 12 s; what is left counts twice: half way from the least time to the least ratio."""
    hazards = Hazards(BINS, 2.0)
    for _ in range(5000):
        for index in range(4):
            hazards.survived(index)
        hazards.ended(4)
    assert hazards.effort_s(8.0) == pytest.approx((4.0 * 4.0 * 12.0) ** (1 / 3), rel=0.02)
    assert hazards.effort_s(0.0) == pytest.approx(12.0, rel=0.05)


def test_hope_of_an_early_end_does_not_outweigh_what_is_known() -> None:
    """Four hundred programs passed the early bins and ended late: a fresh one costs more than one far along."""
    hazards = Hazards(BINS, 2.0, small_s=4.0)
    for _ in range(400):
        for index in range(6):
            hazards.survived(index)
        hazards.ended(6)
    assert hazards.effort_s(0.0) > hazards.effort_s(33.0)
    assert hazards.effort_s(0.0) > 10.0


@given(st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=200))
def test_efforts_are_positive_and_finite(observations: list[tuple[int, bool]]) -> None:
    """Whatever was observed, every program has a place."""
    hazards = Hazards(BINS, 2.0)
    for index, ended in observations:
        (hazards.ended if ended else hazards.survived)(index)
    assert all(0 < hazards.effort_s(2.0**power) < float("inf") for power in range(-2, 14))
