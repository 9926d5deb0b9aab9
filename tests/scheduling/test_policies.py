"""Policies: one conformance suite over every registered one, and what sets each apart."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_engine import make_call

from autellix_sdk.errors import ConfigurationError
from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.scheduling.call import Call, Place
from autellix_server.scheduling.levels import Levels, geometric_levels
from autellix_server.scheduling.policies import DEFAULT_POLICY, POLICIES, SERVABLE, make_policy
from autellix_server.scheduling.policies.attained import AtlasDag
from autellix_server.scheduling.policy import Policy

LEVELS = geometric_levels(count=4, first_bound_s=1.0)
A = ProgramId("a")
seconds = st.floats(0, 1e9)
every_policy = pytest.mark.parametrize("name", POLICIES)


def put(policy: Policy, call: Call, place: Place) -> None:
    """Do to a call what the planner does."""
    call.key, call.quantum_s = (place.level, place.rank, call.sequence), place.quantum_s


def context(call: str = "0.0", parents: tuple[str, ...] | None = (), salt: str = "s") -> CallContext:
    """A call of program a."""
    return CallContext(A, salt, 0, CallId(call), None if parents is None else tuple(map(CallId, parents)))


@every_policy
@given(service_s=seconds, base_s=seconds, call_s=seconds)
def test_account_never_shrinks(name: str, service_s: float, base_s: float, call_s: float) -> None:
    """Attained service grows or stays; what a call inherits is between nothing and all of it."""
    policy = make_policy(name, LEVELS)
    assert policy.name == name
    assert policy.completed(context(), service_s, base_s, call_s) >= service_s
    assert 0 <= policy.inherited_s(context("0.1", None), service_s) <= service_s


@every_policy
@given(base_s=seconds, tokens=st.integers(0, 10**6), ticket=st.integers(1, 10**6))
def test_start_is_a_level_that_exists_and_repeats(name: str, base_s: float, tokens: int, ticket: int) -> None:
    """Levels exist, quanta are positive, no rank is the planner's own, and the same question gets the same answer."""
    places = []
    for _ in range(2):
        policy = make_policy(name, LEVELS)
        call = make_call(base_s=base_s, cached_tokens=tokens, program_ticket=ticket, remaining_s=base_s)
        places.append(policy.start(call))
        assert 0 <= policy.start_level(base_s) < policy.levels.count
        assert policy.promotion_s > 0
    assert places[0] == places[1]
    assert 0 <= places[0].level < policy.levels.count
    assert places[0].quantum_s > 0
    assert places[0].rank > -inf


@every_policy
@given(base_s=st.floats(0, 100), remaining_s=st.floats(0, 1e4), slices=st.lists(st.floats(0.01, 50), max_size=20))
def test_moves_end_and_lead_to_levels_that_exist(
    name: str, base_s: float, remaining_s: float, slices: list[float]
) -> None:
    """However service is sliced, a spent quantum leads to a level with service left in a few moves."""
    policy = make_policy(name, LEVELS)
    call = make_call(base_s=base_s, remaining_s=remaining_s)
    put(policy, call, policy.start(call))
    for service_s in slices:
        call.service_s += service_s
        call.quantum_s -= service_s
        for _ in range(LEVELS.count):
            if call.quantum_s <= 0:
                put(policy, call, policy.move(call))
        assert call.quantum_s > 0
        assert 0 <= call.level < policy.levels.count


@every_policy
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x"]), seconds), max_size=30))
def test_any_program_may_end_in_any_order(name: str, ends: list[tuple[str, str, float]]) -> None:
    """Learning takes programs that were never seen, or end twice, and answers stay in range."""
    policy = make_policy(name, LEVELS)
    for program, program_class, service_s in ends:
        policy.ended(ProgramId(program), program_class, service_s)
    place = policy.start(make_call("new", program_class="x"))  # type: ignore[arg-type]
    assert 0 <= place.level < policy.levels.count


@every_policy
def test_policy_says_when_to_choose_it_and_when_not(name: str) -> None:
    """The docstring is honest."""
    text = POLICIES[name].__doc__ or ""
    assert "Choose it" in text
    assert "Do not choose it" in text or name == "srpt"  # which is no choice anywhere else


def test_clairvoyant_policy_is_not_servable() -> None:
    """An engine cannot know the future; the simulator can."""
    assert set(POLICIES) - set(SERVABLE) == {"srpt"}
    assert DEFAULT_POLICY in SERVABLE


def test_unknown_policy_is_refused_with_the_choice() -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigurationError, match="unknown policy 'sjf'; choose one of: atlas, atlas-dag, auto, fcfs"):
        make_policy("sjf", LEVELS)


@pytest.mark.parametrize(("name", "level"), [("fcfs", 0), ("mlfq", 0), ("plas", 2), ("atlas", 2), ("atlas-dag", 2)])
def test_start_level_by_inherited_service(name: str, level: int) -> None:
    """Program-level policies start a call in its program's bin, the others at the top."""
    assert make_policy(name, LEVELS).start(make_call(base_s=3.0)).level == level


def test_plas_adds_and_atlas_takes_the_longer_path() -> None:
    """Two parallel calls of 2 s and 3 s, both inherited at 1 s."""
    for name, expected_s in (("plas", 6.0), ("atlas", 4.0)):
        policy, service_s = make_policy(name, LEVELS), 1.0
        for call_s in (2.0, 3.0):
            service_s = policy.completed(context(), service_s, 1.0, call_s)
        assert service_s == expected_s


def test_ladder_charges_overshoot_to_the_next_quantum() -> None:
    """Levels end at 1, 2 and 4 s: after 3.5 s at once a call is where it is after seven steps of half a second."""
    policy = make_policy("mlfq", LEVELS)
    at_once = make_call()
    put(policy, at_once, policy.start(at_once))
    at_once.quantum_s -= 3.5
    while at_once.quantum_s <= 0:
        put(policy, at_once, policy.move(at_once))
    assert (at_once.level, at_once.quantum_s) == (2, 0.5)


def test_last_level_is_never_left() -> None:
    """Its quantum has no end, with one level too."""
    assert make_policy("plas", LEVELS).start(make_call(base_s=99.0)) == Place(3, quantum_s=inf)
    assert make_policy("plas", Levels(())).start(make_call(base_s=99.0)) == Place(0, quantum_s=inf)


def test_atlas_dag_inherits_the_longest_path_behind_a_call() -> None:
    """A root of 1 s forks into branches of 2 s and 5 s; each continues, and both are joined."""
    policy = make_policy("atlas-dag", LEVELS)
    service_s = 0.0
    for call, parents, call_s in (("r", (), 1.0), ("x", ("r",), 2.0), ("y", ("r",), 5.0)):
        who = context(call, parents)
        service_s = policy.completed(who, service_s, policy.inherited_s(who, service_s), call_s)
    assert service_s == 6.0
    assert policy.inherited_s(context("x2", ("x",)), service_s) == 3.0
    assert policy.inherited_s(context("y2", ("y",)), service_s) == 6.0
    assert policy.inherited_s(context("z", ("x", "y")), service_s) == 6.0
    assert policy.inherited_s(context("root2", ()), service_s) == 0.0


def test_atlas_dag_falls_back_to_the_scalar() -> None:
    """A call that joins all, or whose parent is not known, inherits what ATLAS would give it."""
    policy = make_policy("atlas-dag", LEVELS)
    assert policy.inherited_s(context("x", None), 7.0) == 7.0
    assert policy.inherited_s(context("x", ("gone",)), 7.0) == 7.0


def test_atlas_dag_knows_parents_of_another_process() -> None:
    """They are written with the salt of their process; the same call ID under another salt is another call."""
    policy = make_policy("atlas-dag", LEVELS)
    policy.completed(context("0.0", salt="p1"), 0.0, 0.0, 2.0)
    assert policy.inherited_s(context("0.0", ("p1.0.0",), salt="p2"), 9.0) == 2.0
    assert policy.inherited_s(context("0.1", ("0.0",), salt="p2"), 9.0) == 9.0


def test_atlas_dag_forgets_the_oldest_calls_first() -> None:
    """Memory is bounded; what is forgotten counts as the scalar."""
    policy = AtlasDag(LEVELS, remembered_calls=2)
    for number in range(3):
        policy.completed(context(f"0.{number}"), 0.0, 0.0, 1.0)
    assert [policy.inherited_s(context("z", (f"0.{n}",)), 9.0) for n in range(3)] == [9.0, 1.0, 1.0]


def test_lpm_prefers_cached_prompts_and_srpt_what_is_nearly_done() -> None:
    """Rank decides inside the one level; an unknown future comes last."""
    lpm, srpt = make_policy("lpm", LEVELS), make_policy("srpt", LEVELS)
    assert lpm.start(make_call(cached_tokens=9)).rank < lpm.start(make_call(cached_tokens=3)).rank
    soon, late, unknown = (srpt.start(make_call(remaining_s=left)).rank for left in (1.0, 2.0, None))  # type: ignore[arg-type]
    assert soon < late < unknown


def test_srpt_counts_service_since_arrival() -> None:
    """A call of a program that needed 8 s when it arrived, 7.5 s later."""
    policy = make_policy("srpt", LEVELS)
    call = make_call(remaining_s=8.0, service_s=7.5)
    assert policy.move(call).rank == 0.5
