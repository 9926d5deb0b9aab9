"""Balancers: one conformance suite over all of them, and what sets each apart."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.errors import ConfigurationError, UsageError
from autellix_sdk.wire import ProgramId
from autellix_server.balancing.balancer import (
    BALANCERS,
    Affinity,
    Autellix,
    ConsistentHash,
    LeastUsed,
    RoundRobin,
    make_balancer,
)
from autellix_server.balancing.choice import BalancedCall, Choice, recomputed_tokens
from autellix_server.balancing.load import EngineLoad

every_balancer = pytest.mark.parametrize("name", sorted(BALANCERS))
loads = st.lists(st.integers(0, 50), min_size=1, max_size=8).map(
    lambda calls: [EngineLoad(f"e{index}", count, slots=16) for index, count in enumerate(calls)]
)
prefixes = st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=4).map(tuple)
calls = st.builds(BalancedCall, st.text("ab", min_size=1, max_size=4).map(ProgramId), st.integers(0, 10_000), prefixes)


def call(program: str = "a", prompt_tokens: int = 4000) -> BalancedCall:
    """A call, long unless said otherwise."""
    return BalancedCall(ProgramId(program), prompt_tokens)


@every_balancer
@given(asked=st.lists(st.tuples(calls, loads, st.sampled_from([None, "e0", "e3", "gone"])), min_size=1, max_size=8))
def test_balancer_keeps_its_promises(name: str, asked: list[tuple[BalancedCall, list[EngineLoad], str | None]]) -> None:
    """Every choice is one of the engines, nobody moves from where he goes, and who is asked the same says the same."""
    balancer, other = make_balancer(name), make_balancer(name)
    assert balancer.name == name
    for arrived, engines, pin in asked:
        choice = balancer.choose(arrived, engines, pin)
        assert choice.engine in engines
        assert choice.moved_from != choice.engine.name
        assert other.choose(arrived, engines, pin) == choice


@every_balancer
def test_no_engine_is_the_callers_mistake(name: str) -> None:
    """The gateway must answer for an empty fleet itself."""
    with pytest.raises(UsageError, match="no engine"):
        make_balancer(name).choose(call(), [], None)


@given(engines=loads)
def test_short_call_goes_to_the_least_used_engine_whatever_the_pin(engines: list[EngineLoad]) -> None:
    """Algorithm 2: up to 2048 tokens the pin is neither followed nor set."""
    balancer, short = Autellix(), call(prompt_tokens=2048)
    choice = balancer.choose(short, engines, engines[-1].name)
    assert choice.engine.calls == min(engine.calls for engine in engines)
    assert (choice.moved_from, choice.pins) == (None, False)


def test_long_call_follows_its_program() -> None:
    """Algorithm 2: from 2049 tokens on the program's engine is used, however busy it is."""
    idle, busy = EngineLoad("e0", 0), EngineLoad("e1", 40)
    long = call(prompt_tokens=2049)
    assert Autellix().choose(long, [idle, busy], "e1") == Choice(busy, pins=True)
    assert Autellix().choose(long, [idle, busy], None) == Choice(idle, pins=True)


@pytest.mark.parametrize("name", ["affinity", "autellix", "hash"])
def test_pin_to_a_lost_engine_is_replaced(name: str) -> None:
    """A program outlives its engine, and the move is seen."""
    choice = make_balancer(name).choose(call(), [EngineLoad("e0", 5), EngineLoad("e2", 3)], "e1")
    assert (choice.moved_from, choice.pins) == ("e1", True)


def test_pin_moves_from_an_overloaded_engine_to_one_with_room() -> None:
    """Twice as many calls as slots: the program goes where there is room, and the move is seen."""
    over, room = EngineLoad("e0", 32, slots=16), EngineLoad("e1", 10, slots=16)
    assert Autellix().choose(call(), [over, room], "e0") == Choice(room, moved_from="e0", pins=True)


def test_pin_stays_where_nobody_has_room() -> None:
    """Moving between two full engines costs a history and buys nothing."""
    over, full = EngineLoad("e0", 40, slots=16), EngineLoad("e1", 25, slots=16)
    assert Autellix().choose(call(), [over, full], "e0") == Choice(over, pins=True)


@given(engines=loads, pin=st.sampled_from([None, "e0", "gone"]))
def test_affinity_sends_long_calls_as_algorithm_2_does(engines: list[EngineLoad], pin: str | None) -> None:
    """It differs for short calls alone."""
    assert Affinity().choose(call(), engines, pin) == Autellix().choose(call(), engines, pin)


def test_a_short_call_stays_with_its_program_until_another_engine_has_clearly_less_to_do() -> None:
    """Up to a quarter more calls and two on top; the program itself does not move."""
    short, least = call(prompt_tokens=100), EngineLoad("e0", 8)
    near, far = EngineLoad("e1", 12), EngineLoad("e1", 13)
    assert Affinity().choose(short, [least, near], "e1") == Choice(near)
    assert Affinity().choose(short, [least, far], "e1") == Choice(least)


def test_a_programs_first_call_gives_it_an_engine_however_short() -> None:
    """So that the next one finds its history; a lost engine is replaced, and the move is seen."""
    short, engines = call(prompt_tokens=100), [EngineLoad("e0", 5), EngineLoad("e2", 3)]
    assert Affinity().choose(short, engines, None) == Choice(engines[1], pins=True)
    assert Affinity().choose(short, engines, "e1") == Choice(engines[1], moved_from="e1", pins=True)


def test_recompute_after_a_move_is_what_was_known_and_is_not_cached() -> None:
    """The new engine may have a part of it, or more."""
    assert recomputed_tokens(3000, 256) == 2744
    assert recomputed_tokens(3000, 4000) == 0


def test_least_used_takes_the_first_on_a_tie() -> None:
    """Ties are broken by the engines' order, so that a run can be repeated."""
    assert LeastUsed().choose(call(), [EngineLoad("b", 1), EngineLoad("a", 1)], None).engine.name == "b"


def test_round_robin_gives_every_engine_its_turn() -> None:
    """Seven calls on three engines: three, two and two."""
    balancer, engines = RoundRobin(), [EngineLoad(name, 0) for name in ("e0", "e1", "e2")]
    turns = [balancer.choose(call(), engines, None).engine.name for _ in range(7)]
    assert turns == ["e0", "e1", "e2", "e0", "e1", "e2", "e0"]


@given(programs=st.sets(st.text("abcdef", min_size=1, max_size=6), min_size=1, max_size=30), lost=st.integers(0, 3))
def test_hash_moves_only_the_programs_of_a_lost_engine(programs: set[str], lost: int) -> None:
    """Rendezvous hashing: whoever was elsewhere stays."""
    engines = [EngineLoad(f"e{index}", 0) for index in range(4)]
    left = [engine for engine in engines if engine.name != f"e{lost}"]
    for program in programs:
        before = ConsistentHash().choose(call(program), engines, None).engine
        after = ConsistentHash().choose(call(program), left, None).engine
        assert after == before or before.name == f"e{lost}"


def test_hash_spreads_programs() -> None:
    """A thousand programs on four engines: none gets less than a fifth."""
    engines = [EngineLoad(f"e{index}", 0) for index in range(4)]
    counts = Counter(ConsistentHash().choose(call(f"p{index}"), engines, None).engine.name for index in range(1000))
    assert len(counts) == 4
    assert min(counts.values()) > 200


def test_unknown_balancer_is_refused_with_the_choice() -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigurationError, match="unknown balancer 'random'; choose one of: affinity, autellix, "):
        make_balancer("random")
