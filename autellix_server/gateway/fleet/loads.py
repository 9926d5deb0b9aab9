"""The load that an engine shows, by its kind. Pure.

Sources: ``sglang/srt/entrypoints/v1_loads.py`` and ``managers/load_snapshot.py`` of SGLang 0.5.23; vLLM's page on
production metrics; ``tools/server/README.md`` of llama.cpp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

from autellix_server.balancing.load import EngineLoad
from autellix_server.gateway.fleet.kinds import EngineKind

LOAD_PATHS: Mapping[EngineKind, str] = {
    EngineKind.OURS: "/v1/loads?include=core",
    EngineKind.SGLANG: "/v1/loads?include=core",
    EngineKind.VLLM: "/metrics",
    EngineKind.LLAMA_CPP: "/metrics",
}
"""Where an engine shows its load; llama.cpp does if it was started with ``--metrics``, other engines do not."""


@dataclass(frozen=True, slots=True)
class ShownLoad:
    """What an engine showed.

    Attributes:
        running, waiting: calls in it, everybody's.
        slots: calls that it runs at a time; `None`: it does not say.
        kv_use: share of its KV memory in use, 0 to 1; `None`: it does not say.
    """

    running: int
    waiting: int
    slots: int | None = None
    kv_use: float | None = None


def read_load(kind: EngineKind, body: bytes) -> ShownLoad | None:
    """Read what an engine answered under its path of `LOAD_PATHS`; `None` if that makes no sense."""
    if kind in (EngineKind.OURS, EngineKind.SGLANG):
        return _sglang_load(body)
    names = _METRICS.get(kind)
    return None if names is None else _metrics_load(names, body.decode("utf-8", "replace"))


def engine_load(name: str, in_flight: int, shown: ShownLoad | None, slots: int | None = None) -> EngineLoad:
    """Return an engine's load for balancers.

    Args:
        name: of the engine.
        in_flight: calls that this gateway has there, which it knows at once; others may have more.
        shown: what the engine showed last; `None`: nothing.
        slots: calls that it runs at a time, where it does not show it itself: its window, say.
    """
    if shown is None:
        return EngineLoad(name, in_flight, slots=slots)
    calls = max(in_flight, shown.running + shown.waiting)
    return EngineLoad(name, calls, shown.waiting, shown.slots or slots, shown.kv_use)


@dataclass(frozen=True, slots=True)
class _MetricNames:
    running: str
    waiting: str
    kv_use: tuple[str, ...]


_METRICS = {
    EngineKind.VLLM: _MetricNames(
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    ),
    EngineKind.LLAMA_CPP: _MetricNames(
        "llamacpp:requests_processing", "llamacpp:requests_deferred", ("llamacpp:kv_cache_usage_ratio",)
    ),
}

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{.*\})?[ \t]+(\S+)", re.MULTILINE | re.ASCII)


def _sglang_load(body: bytes) -> ShownLoad | None:
    """Sum over the ranks of data parallelism, each of which runs calls of its own."""
    try:
        ranks: list[Mapping[str, Any]] = json.loads(body)["loads"]
        running = sum(_count(rank["num_running_reqs"]) for rank in ranks)
        waiting = sum(_count(rank["num_waiting_reqs"]) for rank in ranks)
        slots = sum(_count(rank.get("max_running_requests", 0)) for rank in ranks)
        kv_use = [_share(rank["token_usage"]) for rank in ranks if "token_usage" in rank]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return ShownLoad(running, waiting, slots or None, fmean(kv_use) if kv_use else None) if ranks else None


def _metrics_load(names: _MetricNames, text: str) -> ShownLoad | None:
    """Sum over all label sets: engines of one server are told apart by a label."""
    wanted = {names.running, names.waiting, *names.kv_use}
    found: dict[str, list[float]] = {}
    for name, value in _SAMPLE.findall(text):
        if name in wanted:
            try:
                found.setdefault(name, []).append(float(value))
            except ValueError:
                return None
    try:
        running = sum(map(_count, found[names.running]))
        waiting = sum(map(_count, found[names.waiting]))
        kv_use = next((list(map(_share, found[name])) for name in names.kv_use if name in found), None)
    except (LookupError, ValueError):
        return None
    return ShownLoad(running, waiting, None, None if kv_use is None else fmean(kv_use))


def _count(value: float) -> int:
    """Return a count of calls.

    Raises:
        ValueError: it is none.
    """
    if not isfinite(value) or value < 0:
        raise ValueError(value)
    return int(value)


def _share(value: float) -> float:
    """Return a share between 0 and 1.

    Raises:
        ValueError: it is no number.
    """
    if not isfinite(value):
        raise ValueError(value)
    return min(max(float(value), 0.0), 1.0)
