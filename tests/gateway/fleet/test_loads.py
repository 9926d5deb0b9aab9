"""Loads as engines show them: JSON of SGLang, metrics of vLLM and llama.cpp, and nonsense."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.balancing.load import EngineLoad
from autellix_server.gateway.fleet.kinds import EngineKind
from autellix_server.gateway.fleet.loads import LOAD_PATHS, ShownLoad, engine_load, read_load

SGLANG = {
    "version": "0.5.23",
    "loads": [
        {"dp_rank": 0, "num_running_reqs": 3, "num_waiting_reqs": 1, "max_running_requests": 16, "token_usage": 0.5},
        {"dp_rank": 1, "num_running_reqs": 5, "num_waiting_reqs": 0, "max_running_requests": 16, "token_usage": 0.7},
    ],
}
VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a {b}"} 3.0
vllm:num_requests_running{engine="1",model_name="a {b}"} 5.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a {b}"} 1.0
vllm:num_requests_waiting{engine="1",model_name="a {b}"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="a {b}",reason="capacity"} 1.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="a {b}"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="a {b}"} 0.7
"""
LLAMA = b"""\
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 4
# HELP llamacpp:requests_deferred Number of requests deferred.
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 46
"""


@pytest.mark.parametrize("kind", [EngineKind.OURS, EngineKind.SGLANG])
def test_sglang_counts_over_its_ranks(kind: EngineKind) -> None:
    """Each rank runs calls of its own; our plugin leaves the endpoint as it is."""
    assert read_load(kind, json.dumps(SGLANG).encode()) == ShownLoad(8, 1, 32, pytest.approx(0.6))


def test_mock_engine_tells_less() -> None:
    """Slots stand elsewhere there."""
    loads = [{"dp_rank": 0, "num_running_reqs": 2, "num_waiting_reqs": 1, "token_usage": 0.25}]
    assert read_load(EngineKind.OURS, json.dumps({"loads": loads}).encode()) == ShownLoad(2, 1, None, 0.25)


def test_vllm_counts_over_its_engines() -> None:
    """Labels may have braces; waiting by reason is another metric."""
    assert read_load(EngineKind.VLLM, VLLM) == ShownLoad(8, 1, None, pytest.approx(0.6))


def test_vllm_once_had_another_name_for_its_memory() -> None:
    """Both mean the KV cache."""
    old = VLLM.replace(b"kv_cache", b"gpu_cache")
    assert read_load(EngineKind.VLLM, old) == read_load(EngineKind.VLLM, VLLM)


def test_llama_cpp_defers_what_waits() -> None:
    """And says nothing of its memory any more."""
    assert read_load(EngineKind.LLAMA_CPP, LLAMA) == ShownLoad(4, 46)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (EngineKind.SGLANG, b"{}"),
        (EngineKind.SGLANG, b'{"loads": []}'),
        (EngineKind.SGLANG, b'{"loads": [{"num_running_reqs": -1, "num_waiting_reqs": 0}]}'),
        (EngineKind.SGLANG, b'{"loads": [{"num_running_reqs": NaN, "num_waiting_reqs": 0}]}'),
        (EngineKind.SGLANG, b'{"loads": [{"num_running_reqs": "3", "num_waiting_reqs": 0}]}'),
        (EngineKind.SGLANG, b"[" * 100_000),
        (EngineKind.VLLM, LLAMA),
        (EngineKind.VLLM, VLLM.replace(b"3.0", b"NaN")),
        (EngineKind.VLLM, VLLM.replace(b"3.0", b"three")),
        (EngineKind.LLAMA_CPP, b"\xff\xfe"),
        (EngineKind.OTHER, VLLM),
    ],
)
def test_nonsense_is_no_load(kind: EngineKind, body: bytes) -> None:
    """Then the gateway goes by its own calls."""
    assert read_load(kind, body) is None


@given(kind=st.sampled_from(EngineKind), body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_answer_is_taken(kind: EngineKind, body: bytes) -> None:
    """An engine is not trusted to answer what was asked."""
    shown = read_load(kind, body)
    assert shown is None or kind in LOAD_PATHS


def test_calls_of_others_count_and_own_ones_at_once() -> None:
    """What the engine showed is a moment old; what this gateway sent since is not in it."""
    shown = ShownLoad(running=8, waiting=2, slots=16, kv_use=0.5)
    assert engine_load("e", 3, shown) == EngineLoad("e", 10, 2, 16, 0.5)
    assert engine_load("e", 14, shown).calls == 14
    assert engine_load("e", 3, None, slots=12) == EngineLoad("e", 3, slots=12)
    assert engine_load("e", 3, ShownLoad(1, 0), slots=12).slots == 12
