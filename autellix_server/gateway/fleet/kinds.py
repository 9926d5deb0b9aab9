"""What kind of engine answers under an address, from what its endpoints show. Pure: somebody else asks them.

| kind | recognised by the owner of its models, or by | takes `priority` |
|---|---|---|
| ours | the marker of our plugin in ``/server_info`` | stamps say more |
| SGLang | ``internal_states`` in ``/server_info`` | with --enable-priority-scheduling |
| vLLM | ``vllm_config`` in ``/server_info`` | with --scheduling-policy priority |
| llama.cpp | the header ``Server: llama.cpp``, ``total_slots`` in ``/props`` | no |
| other | that it lists models as OpenAI does | no |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from autellix_server.engine.limits import EngineLimits
from autellix_server.engine.marker import MARKER_KEY

MAX_MODELS = 1000
"""Models of one engine that are routed to."""


class EngineKind(StrEnum):
    """Kinds of engines."""

    OURS = "autellix"
    SGLANG = "sglang"
    VLLM = "vllm"
    LLAMA_CPP = "llama.cpp"
    OTHER = "other"


PROBE_PATHS: Mapping[str, Sequence[str]] = {
    "models": ("/v1/models",),
    # vLLM has one in development mode only, and shows its settings as JSON when asked; older SGLang has the other.
    "server_info": ("/server_info?config_format=json", "/get_server_info"),
    "props": ("/props",),
    "version": ("/version",),
}
"""What to ask an engine, by the field of `Shown` that the answer is for; paths in order until one answers."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What an engine answered to `PROBE_PATHS`: decoded JSON, `None` where it has no such endpoint or sent none.

    Attributes:
        server: the header of that name of its answer about models; empty: it sent none.
    """

    models: object = None
    server_info: object = None
    props: object = None
    version: object = None
    server: str = ""


class PriorityOrder(StrEnum):
    """Which of an engine's calls with a `priority` run first."""

    HIGHER_FIRST = "higher"
    LOWER_FIRST = "lower"

    def value_of(self, level: int) -> int:
        """Return the `priority` of a call at a level, of which 0 is the best."""
        return -level if self is PriorityOrder.HIGHER_FIRST else level


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known about an engine.

    Attributes:
        kind: what it is.
        models: names that it answers to, in its order.
        version: its version, as it says; empty: it does not.
        slots: calls that it runs at a time; `None`: it does not say.
        priority: how it takes the `priority` of a call; `None`: it does not, or does not say that it does. Some
            engines refuse calls that carry one unasked.
    """

    kind: EngineKind
    models: tuple[str, ...]
    version: str = ""
    slots: int | None = None
    priority: PriorityOrder | None = None


def recognise(shown: Shown) -> Traits | None:
    """Return what an engine is; `None` if it lists no models as OpenAI does, so that nothing can be sent there."""
    cards = _cards(shown.models)
    if cards is None:
        return None
    info, props = _mapping(shown.server_info), _mapping(shown.props)
    kind = _kind(shown.server, [card.get("owned_by") for card in cards], info, props)
    models = tuple(name for card in cards if isinstance(name := card.get("id"), str) and name)
    if kind in (EngineKind.OURS, EngineKind.SGLANG):
        slots, version = EngineLimits.from_server_info(info).slots, info.get("version")
    elif kind is EngineKind.VLLM:
        slots, version = _positive(_vllm_scheduler(info).get("max_num_seqs")), _mapping(shown.version).get("version")
    elif kind is EngineKind.LLAMA_CPP:
        slots, version = _positive(props.get("total_slots")), props.get("build_info")
    else:
        slots, version = None, None
    return Traits(kind, models[:MAX_MODELS], version if isinstance(version, str) else "", slots, _priority(kind, info))


def _kind(server: str, owners: Sequence[object], info: Mapping[str, Any], props: Mapping[str, Any]) -> EngineKind:
    # The mock engine believes stamps and sends bills as our plugin does.
    if _mapping(info.get(MARKER_KEY)).get("http") is True or "mock_engine" in info:
        return EngineKind.OURS
    if isinstance(info.get("internal_states"), list) or "sglang" in owners:
        return EngineKind.SGLANG
    if "vllm" in owners or "vllm_config" in info:
        return EngineKind.VLLM
    if "llamacpp" in owners or server == "llama.cpp" or "total_slots" in props:
        return EngineKind.LLAMA_CPP
    return EngineKind.OTHER


def _priority(kind: EngineKind, info: Mapping[str, Any]) -> PriorityOrder | None:
    if kind is EngineKind.SGLANG and info.get("enable_priority_scheduling") is True:
        low_first = info.get("schedule_low_priority_values_first") is True
        return PriorityOrder.LOWER_FIRST if low_first else PriorityOrder.HIGHER_FIRST
    if kind is EngineKind.VLLM and _vllm_scheduler(info).get("policy") == "priority":
        return PriorityOrder.LOWER_FIRST
    return None


def _vllm_scheduler(info: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(_mapping(info.get("vllm_config")).get("scheduler_config"))


def _cards(models: object) -> list[Mapping[str, Any]] | None:
    """Return the cards of a list of models, `None` if it is none."""
    data = _mapping(models).get("data")
    return [_mapping(card) for card in data] if isinstance(data, list) else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
