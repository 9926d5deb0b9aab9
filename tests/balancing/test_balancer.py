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
    Autellix,
    BalancedCall,
    ConsistentHash,
    EngineLoad,
    LeastUsed,
    RoundRobin,
    make_balancer,
)

every_balancer = pytest.mark.parametrize("name", sorted(BALANCERS))
loads = st.lists(st.integers(0, 50), min_size=1, max_size=8).map(
    lambda calls: [EngineLoad(f"e{index}", count) for index, count in enumerate(calls)]
)
calls = st.builds(BalancedCall, st.text("ab", min_size=1, max_size=4).map(ProgramId), st.integers(0, 10_000))


def call(program: str = "a", prompt_tokens: int = 4000) -> BalancedCall:
    """A call, long unless said otherwise."""
    return BalancedCall(ProgramId(program), prompt_tokens)


@every_balancer
@given(arrived=calls, engines=loads, pin=st.sampled_from([None, "e0", "e3", "gone"]))
def test_balancer_keeps_its_promises(name: str, arrived: BalancedCall, engines: list[EngineLoad], pin: str) -> None:
    """The choice is one of the engines, and a fresh balancer makes the same one."""
    balancer = make_balancer(name)
    assert balancer.name == name
    chosen = balancer.choose(arrived, engines, pin)
    assert chosen in engines
    assert make_balancer(name).choose(arrived, engines, pin) == chosen


@every_balancer
def test_no_engine_is_the_callers_mistake(name: str) -> None:
    """The gateway must answer for an empty fleet itself."""
    with pytest.raises(UsageError, match="no engine"):
        make_balancer(name).choose(call(), [], None)


@given(engines=loads)
def test_short_call_goes_to_the_least_used_engine_whatever_the_pin(engines: list[EngineLoad]) -> None:
    """Algorithm 2: up to 2048 tokens the pin is neither followed nor set."""
    balancer, short = Autellix(), call(prompt_tokens=2048)
    assert balancer.choose(short, engines, engines[-1].name).calls == min(engine.calls for engine in engines)
    assert not balancer.pins(short)


def test_long_call_follows_its_program() -> None:
    """Algorithm 2: from 2049 tokens on the program's engine is used, however busy it is."""
    engines = [EngineLoad("e0", 0), EngineLoad("e1", 40)]
    long = call(prompt_tokens=2049)
    assert Autellix().choose(long, engines, "e1").name == "e1"
    assert Autellix().choose(long, engines, None).name == "e0"
    assert Autellix().pins(long)


def test_pin_to_a_lost_engine_is_replaced() -> None:
    """A program outlives its engine."""
    assert Autellix().choose(call(), [EngineLoad("e0", 5), EngineLoad("e2", 3)], "e1").name == "e2"


def test_least_used_takes_the_first_on_a_tie() -> None:
    """Ties are broken by the engines' order, so that a run can be repeated."""
    assert LeastUsed().choose(call(), [EngineLoad("b", 1), EngineLoad("a", 1)], None).name == "b"


def test_round_robin_gives_every_engine_its_turn() -> None:
    """Seven calls on three engines: three, two and two."""
    balancer, engines = RoundRobin(), [EngineLoad(name, 0) for name in ("e0", "e1", "e2")]
    assert [balancer.choose(call(), engines, None).name for _ in range(7)] == ["e0", "e1", "e2", "e0", "e1", "e2", "e0"]


@given(programs=st.sets(st.text("abcdef", min_size=1, max_size=6), min_size=1, max_size=30), lost=st.integers(0, 3))
def test_hash_moves_only_the_programs_of_a_lost_engine(programs: set[str], lost: int) -> None:
    """Rendezvous hashing: whoever was elsewhere stays."""
    engines = [EngineLoad(f"e{index}", 0) for index in range(4)]
    left = [engine for engine in engines if engine.name != f"e{lost}"]
    for program in programs:
        before = ConsistentHash().choose(call(program), engines, None)
        after = ConsistentHash().choose(call(program), left, None)
        assert after == before or before.name == f"e{lost}"


def test_hash_spreads_programs() -> None:
    """A thousand programs on four engines: none gets less than a fifth."""
    engines = [EngineLoad(f"e{index}", 0) for index in range(4)]
    counts = Counter(ConsistentHash().choose(call(f"p{index}"), engines, None).name for index in range(1000))
    assert len(counts) == 4
    assert min(counts.values()) > 200


def test_unknown_balancer_is_refused_with_the_choice() -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigurationError, match="unknown balancer 'random'; choose one of: autellix, least-used"):
        make_balancer("random")
