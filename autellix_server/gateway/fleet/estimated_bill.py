"""The time bill of a call whose engine sends none: what the gateway saw of it, and the tokens that the answer tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import CallContext

_US = 1_000_000
_MAX_TOKENS = 2**53


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a call, as its answer tells them.

    Attributes:
        prompt_tokens: the whole prompt.
        cached_tokens: the part of it that was not computed again.
        output_tokens: the answer.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def read(cls, answer: object) -> Self | None:
        """Read the ``usage`` of an answer or of an event in a stream; `None` if it has none.

        Args:
            answer: decoded JSON of chat completions, completions, embeddings, responses or messages; of the last two
                also the event that has them within ``response`` or ``message``. What makes no sense counts as 0.
        """
        if not isinstance(answer, Mapping):
            return None
        usage = answer.get("usage")
        if not isinstance(usage, Mapping):
            inner = answer.get("response", answer.get("message"))
            usage = inner.get("usage") if isinstance(inner, Mapping) else None
        if not isinstance(usage, Mapping):
            return None
        if "prompt_tokens" in usage:
            cached = _count(_within(usage, "prompt_tokens_details").get("cached_tokens"))
            return cls(_count(usage["prompt_tokens"]), cached, _count(usage.get("completion_tokens")))
        prompt, output = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
        if "input_tokens_details" in usage:
            return cls(prompt, _count(_within(usage, "input_tokens_details").get("cached_tokens")), output)
        # The messages API counts cached tokens beside the others.
        cached = _count(usage.get("cache_read_input_tokens"))
        return cls(prompt + cached + _count(usage.get("cache_creation_input_tokens")), cached, output)


@dataclass(frozen=True, slots=True)
class SeenTimes:
    """When what happened to a call, in seconds of one clock.

    Attributes:
        arrived_s: its request began.
        released_s: it was sent to the engine.
        first_byte_s: the first byte of the answer's body came; `None` if the answer came in one piece.
        ended_s: the answer was complete.
    """

    arrived_s: float
    released_s: float
    first_byte_s: float | None
    ended_s: float


def estimated_bill(
    context: CallContext, engine: str, times: SeenTimes, usage: Usage | None, level: tuple[int, int]
) -> CallBill:
    """Return the bill of a call; its parts add up to the wall time from arrival to end exactly.

    The time at the gateway is waiting. The time in the engine is the service that its program is charged, up to the
    first byte as prefill and from there on as decode: the engine's own queue is in it, which a window keeps short. Of
    an answer in one piece nothing is known but its end, and all of it counts as decode.

    Args:
        context: who the call is.
        engine: name of its engine.
        times: what the gateway saw. Times that go back count as no time.
        usage: tokens, `None` if the answer did not tell them.
        level: priority level at arrival and at the end.
    """
    released_us = max(0, round((times.released_s - times.arrived_s) * _US))
    ended_us = max(released_us, round((times.ended_s - times.arrived_s) * _US))
    first_us = released_us if times.first_byte_s is None else round((times.first_byte_s - times.arrived_s) * _US)
    first_us = min(max(released_us, first_us), ended_us)
    usage = usage or Usage()
    return CallBill(
        context.program,
        context.call,
        engine,
        TimeSplit({"admission": released_us}, prefill_us=first_us - released_us, decode_us=ended_us - first_us),
        service_us=ended_us - released_us,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        level=level,
    )


def _within(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    details = usage.get(name)
    return details if isinstance(details, Mapping) else {}


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else 0
