"""What fits into an engine, as SGLang says it and as we do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.engine.limits import EngineLimits

TOLD = {"max_running_requests": 16, "max_total_num_tokens": 32768, "chunked_prefill_size": 512, "tp_size": 1}
STATE = {"effective_max_running_requests_per_dp": 9}
"""Of a scheduler that was told 16, or nothing, and has chosen 9."""

capacities = st.none() | st.integers(1, 10**9)


def test_an_engine_says_its_limits() -> None:
    """In SGLang's words."""
    assert EngineLimits.from_server_info(TOLD) == EngineLimits(slots=16, kv_tokens=32768, chunk_tokens=512)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"max_running_requests": None, "internal_states": [STATE]}, 9),
        ({"internal_states": [STATE]}, 9),
        ({"internal_states": [{}]}, 16),
        ({"internal_states": []}, 16),
        ({"internal_states": None}, 16),
        ({"max_running_requests": None}, None),
    ],
)
def test_the_slots_are_those_that_the_scheduler_has_chosen(changed: dict[str, Any], expected: int | None) -> None:
    """What it was told may be more than fits, and on a GPU it is told nothing."""
    assert EngineLimits.from_server_info(TOLD | changed).slots == expected


@pytest.mark.parametrize("value", [-1, 0, None, "512", 512.0, True])
def test_what_makes_no_sense_is_not_said(value: object) -> None:
    """-1 is SGLang's word for no chunks."""
    assert EngineLimits.from_server_info(TOLD | {"chunked_prefill_size": value}).chunk_tokens is None
    assert EngineLimits.from_json({"slots": 4, "chunk_tokens": value}) == EngineLimits(slots=4)


@given(st.builds(EngineLimits, capacities, capacities, capacities))
def test_limits_round_trip(limits: EngineLimits) -> None:
    """What the gateway writes is what `autellix calibrate` reads."""
    assert EngineLimits.from_json(limits.to_json()) == limits


@pytest.mark.parametrize("value", [None, [], "limits", 3])
def test_what_is_no_object_says_nothing(value: object) -> None:
    """Such as before the engine is ready."""
    assert EngineLimits.from_json(value) == EngineLimits()
