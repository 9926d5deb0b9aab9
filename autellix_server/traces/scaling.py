"""Making programs fit an engine: shorter prompts and outputs, shorter gaps, no call beyond the context length."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from autellix_sdk.errors import UsageError
from autellix_server.traces.model import TraceCall, TraceProgram


@dataclass(frozen=True, slots=True)
class Scale:
    """How to change programs.

    Attributes:
        prompts: factor on prompt lengths and on what they share, above 0.
        outputs: factor on output lengths, above 0.
        gaps: factor on tool gaps, 0 or more; 0 leaves no gap.
        unknown_gap_s: seconds to use, before `gaps`, where the trace does not know a gap; `None` keeps them unknown.
        context_tokens: calls whose prompt and output are longer once scaled are left out, with all that wait for
            them; `None` for no limit.
        calls: keep the first calls of each program, this many, 1 or more; `None` for all.

    Raises:
        UsageError: a value is out of range.
    """

    prompts: float = 1.0
    outputs: float = 1.0
    gaps: float = 1.0
    unknown_gap_s: float | None = None
    context_tokens: int | None = None
    calls: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("prompts", self.prompts), ("outputs", self.outputs)):
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"the scale of {name} is {value}; use a factor above 0")
        for name, value in (("gaps", self.gaps), ("unknown_gap_s", self.unknown_gap_s or 0.0)):
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} is {value}; use a number of 0 or more")
        for name, limit in (("context_tokens", self.context_tokens), ("calls", self.calls)):
            if limit is not None and limit < 1:
                raise UsageError(f"{name} is {limit}; use 1 or more")

    @property
    def words(self) -> str | None:
        """What `TraceProgram.scaled` says of it; `None` when programs stay as they are."""
        factors = (("prompts", self.prompts), ("outputs", self.outputs), ("gaps", self.gaps))
        said = [f"{name} * {factor:g}" for name, factor in factors if factor != 1]
        if self.calls is not None:
            said.append(f"first {self.calls} calls")
        if self.context_tokens is not None:
            said.append(f"context up to {self.context_tokens}")
        return ", ".join(said) or None


def scale_program(program: TraceProgram, scale: Scale) -> TraceProgram | None:
    """Return the program changed; `None` when not even one of its calls is left.

    Lengths round to whole tokens, prompts to 1 at least, outputs to 1 unless they were 0. Sharing is scaled as prompts
    are, and never exceeds what an earlier call then has.
    """
    calls: list[TraceCall] = []
    kept: set[str] = set()
    longest_history = 0
    for call in program.calls[: scale.calls]:
        scaled = _scale_call(call, scale, longest_history)
        fits = scale.context_tokens is None or scaled.history_tokens <= scale.context_tokens
        if fits and kept.issuperset(call.parents):
            calls.append(scaled)
            kept.add(call.id)
            longest_history = max(longest_history, scaled.history_tokens)
    if not calls:
        return None
    return replace(
        program,
        calls=tuple(calls),
        tool_tokens=round(program.tool_tokens * scale.prompts),
        system_tokens=round(program.system_tokens * scale.prompts),
        scaled=", ".join(filter(None, (program.scaled, scale.words))) or None,
    )


def _scale_call(call: TraceCall, scale: Scale, longest_history: int) -> TraceCall:
    prompt = max(1, round(call.prompt_tokens * scale.prompts))
    shared = min(round(call.shared_prefix_tokens * scale.prompts), prompt, longest_history)
    gap_s = scale.unknown_gap_s if call.tool_seconds is None else call.tool_seconds
    return replace(
        call,
        prompt_tokens=prompt,
        shared_prefix_tokens=shared,
        output_tokens=max(1, round(call.output_tokens * scale.outputs)) if call.output_tokens else 0,
        tool_seconds=None if gap_s is None else gap_s * scale.gaps,
    )
