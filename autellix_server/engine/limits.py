"""What fits into an engine: as SGLang says it under ``GET /server_info``, and as our gateway does under ``/health``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Capacities of an engine, each 1 or more; `None` where it does not say, or has no such limit.

    Attributes:
        slots: calls that it decodes together.
        kv_tokens: tokens that its KV memory holds.
        chunk_tokens: prompt tokens that a step computes at most.
    """

    slots: int | None = None
    kv_tokens: int | None = None
    chunk_tokens: int | None = None

    @classmethod
    def from_server_info(cls, info: Mapping[str, Any]) -> Self:
        """Read the reply of an engine's ``GET /server_info``; what makes no sense counts as not said."""
        return cls(
            slots=_capacity(_slots(info)),
            kv_tokens=_capacity(info.get("max_total_num_tokens")),
            chunk_tokens=_capacity(info.get("chunked_prefill_size")),
        )

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what `to_json` made; what makes no sense counts as not said."""
        said = value if isinstance(value, Mapping) else {}
        return cls(**{field.name: _capacity(said.get(field.name)) for field in fields(cls)})

    def to_json(self) -> dict[str, int | None]:
        """Return the limits by name."""
        return asdict(self)


def _slots(info: Mapping[str, Any]) -> object:
    """Return what the scheduler has chosen; ``max_running_requests`` is what it was told, null if nothing."""
    states = info.get("internal_states")
    if isinstance(states, list) and states and isinstance(states[0], Mapping):
        chosen: object = states[0].get("effective_max_running_requests_per_dp")
        if chosen is not None:
            return chosen
    return info.get("max_running_requests")


def _capacity(value: object) -> int | None:
    """Return a limit, `None` for none: SGLang writes -1 for what is not limited."""
    return value if type(value) is int and value > 0 else None
