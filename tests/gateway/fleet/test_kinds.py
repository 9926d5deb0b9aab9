"""Recognising engines by what they show. The answers are cut down from those of real engines."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.gateway.fleet.kinds import MAX_MODELS, EngineKind, PriorityOrder, Shown, Traits, recognise


def models(owner: str, *names: str) -> dict[str, Any]:
    """A list of models."""
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": owner} for name in names]}


SGLANG_INFO = {
    "model_path": "meta-llama/Llama-3.1-8B-Instruct",
    "version": "0.5.23",
    "internal_states": [{"effective_max_running_requests_per_dp": 48}],
    "enable_priority_scheduling": False,
    "schedule_low_priority_values_first": False,
}
OURS_INFO = {**SGLANG_INFO, "autellix": {"http": True, "version": "0.1.0+abc", "policy": "auto"}}
VLLM_INFO = {"vllm_config": {"scheduler_config": {"policy": "priority", "max_num_seqs": 256}}}
LLAMA_PROPS = {"total_slots": 4, "build_info": "b8681", "model_path": "model.gguf"}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (
            Shown(models("sglang", "a"), OURS_INFO),
            Traits(EngineKind.OURS, ("a",), "0.5.23", 48),
        ),
        (
            Shown(models("autellix", "mock"), {"mock_engine": {"speed": 1.0}, "max_running_requests": 32}),
            Traits(EngineKind.OURS, ("mock",), "", 32),
        ),
        (
            Shown(models("sglang", "a", "a-lora"), SGLANG_INFO),
            Traits(EngineKind.SGLANG, ("a", "a-lora"), "0.5.23", 48),
        ),
        (Shown(models("sglang", "a")), Traits(EngineKind.SGLANG, ("a",))),
        (
            Shown(models("vllm", "a"), VLLM_INFO, version={"version": "0.12.0"}),
            Traits(EngineKind.VLLM, ("a",), "0.12.0", 256, PriorityOrder.LOWER_FIRST),
        ),
        (
            Shown(models("vllm", "a"), version={"version": "0.12.0"}),
            Traits(EngineKind.VLLM, ("a",), "0.12.0"),
        ),
        (
            Shown(models("llamacpp", "a"), props=LLAMA_PROPS, server="llama.cpp"),
            Traits(EngineKind.LLAMA_CPP, ("a",), "b8681", 4),
        ),
        (Shown(models("me", "a"), props=LLAMA_PROPS), Traits(EngineKind.LLAMA_CPP, ("a",), "b8681", 4)),
        (Shown(models("me", "a"), server="llama.cpp"), Traits(EngineKind.LLAMA_CPP, ("a",))),
        (Shown(models("openai", "gpt"), version={"version": "1"}), Traits(EngineKind.OTHER, ("gpt",))),
        (Shown(models("library")), Traits(EngineKind.OTHER, ())),
    ],
)
def test_engines_are_recognised(shown: Shown, expected: Traits) -> None:
    """Each by what it alone shows, with its slots and version where it tells them."""
    assert recognise(shown) == expected


def test_marker_without_hooks_in_the_http_process_is_not_ours() -> None:
    """Half a plugin sends no bills."""
    info = {**OURS_INFO, "autellix": {"version": "0.1.0+abc"}}
    found = recognise(Shown(models("sglang", "a"), info))
    assert found is not None
    assert found.kind is EngineKind.SGLANG


@pytest.mark.parametrize(
    ("low_first", "order", "values"),
    [(False, PriorityOrder.HIGHER_FIRST, (0, -3)), (True, PriorityOrder.LOWER_FIRST, (0, 3))],
)
def test_sglang_takes_priority_in_either_direction(
    low_first: bool, order: PriorityOrder, values: tuple[int, int]
) -> None:
    """Only where it was started with priority scheduling; level 0 runs before level 3."""
    info = {**SGLANG_INFO, "enable_priority_scheduling": True, "schedule_low_priority_values_first": low_first}
    found = recognise(Shown(models("sglang", "a"), info))
    assert found is not None
    assert found.priority is order
    assert (order.value_of(0), order.value_of(3)) == values


@pytest.mark.parametrize("nothing", [None, [], "no", {}, {"data": {}}, {"error": "loading model"}])
def test_what_lists_no_models_is_no_engine(nothing: object) -> None:
    """Nothing could be routed there."""
    assert recognise(Shown(nothing, SGLANG_INFO, LLAMA_PROPS, server="llama.cpp")) is None


def test_number_of_models_is_bounded() -> None:
    """An engine is no reason to run out of memory."""
    found = recognise(Shown(models("openai", *map(str, range(5000)))))
    assert found is not None
    assert len(found.models) == MAX_MODELS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
cards = st.dictionaries(st.sampled_from(["id", "owned_by"]), json_values) | json_values
keys = st.sampled_from(["autellix", "vllm_config", "internal_states", "total_slots", "version", "build_info"])
answers = st.dictionaries(keys, json_values | st.just({"scheduler_config": 7})) | json_values


@given(listed=st.lists(cards, max_size=4), info=answers, props=answers, version=answers)
def test_any_answer_is_taken(listed: list[object], info: object, props: object, version: object) -> None:
    """What makes no sense counts as not said."""
    found = recognise(Shown({"data": listed}, info, props, version))
    assert found is not None
    assert all(isinstance(name, str) for name in (*found.models, found.version))
    assert found.slots is None or found.slots > 0
