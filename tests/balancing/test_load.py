"""How full engines are, and when one is overloaded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.errors import ConfigurationError
from autellix_server.balancing.load import EngineLoad, Overload, OverloadLimits

walks = st.lists(st.integers(0, 60), min_size=1, max_size=40)


def test_fullness_is_calls_over_slots() -> None:
    """Of an engine that says how many it runs."""
    assert EngineLoad("e0", 24, slots=16).fullness == 1.5


def test_memory_is_room_as_well() -> None:
    """Four calls fill 80 % of the memory: it has room for five, whatever the slots; ten are twice that."""
    assert EngineLoad("e0", 10, waiting=6, slots=16, kv_use=0.8).fullness == 2.0


@pytest.mark.parametrize("load", [EngineLoad("e0", 7), EngineLoad("e0", 3, waiting=3, kv_use=0.5)])
def test_fullness_is_unknown_without_slots_or_memory(load: EngineLoad) -> None:
    """And such an engine is never overloaded."""
    assert load.fullness is None
    overload = Overload()
    overload.look([load])
    assert overload.names == set()


def test_overload_ends_later_than_it_begins() -> None:
    """From 32 calls on 16 slots, until they are down to 16."""
    overload, seen = Overload(), []
    for calls in (31, 32, 31, 17, 16, 31):
        overload.look([EngineLoad("e0", calls, slots=16)])
        seen.append("e0" in overload.names)
    assert seen == [False, True, True, True, False, False]


@given(walk=walks)
def test_between_the_limits_nothing_changes(walk: list[int]) -> None:
    """Over one limit an engine is overloaded, under the other it is not, between them it is what it was."""
    overload, was = Overload(), False
    for calls in walk:
        overload.look([EngineLoad("e0", calls, slots=16)])
        now = "e0" in overload.names
        assert now == (True if calls >= 32 else False if calls <= 16 else was)
        was = now


def test_engines_of_another_model_stay_what_they_were() -> None:
    """Each call is shown only the engines that serve its model."""
    overload = Overload()
    overload.look([EngineLoad("e0", 40, slots=16)])
    overload.look([EngineLoad("e1", 1, slots=16)])
    overload.look([EngineLoad("e0", 25, slots=16)])
    assert overload.names == {"e0"}


def test_relief_is_the_least_used_engine_with_room() -> None:
    """Neither a full one nor one of which nothing is known."""
    engines = [EngineLoad("e0", 40, slots=16), EngineLoad("e1", 16, slots=16), EngineLoad("e2", 1)]
    assert Overload().relief(engines) == engines[1]
    assert Overload().relief(engines[::2]) is None


def test_limits_must_leave_a_gap() -> None:
    """Without one programs would go to and fro."""
    with pytest.raises(ConfigurationError, match=r"calm must be over 0 and below over, got calm 2.0 and over 2.0"):
        OverloadLimits(over=2.0, calm=2.0)
