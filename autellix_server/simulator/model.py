"""The engine model: what a step costs, what fits, and presets for known machines."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import sqrt

from autellix_sdk.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class EngineModel:
    """Cost and capacity of one engine.

    A step either computes prompt chunks, in ``step_s + prefill_token_s * prompt tokens computed + prefix_token_s *
    tokens before them`` seconds, or decodes, in ``step_s + decode_sequence_s * calls + kv_token_s * KV tokens read``;
    prompts go first.

    Attributes:
        step_s: cost of a step by itself: reading the weights, launching the kernels. Over 0.
        prefill_token_s: cost of computing one prompt token.
        prefix_token_s: cost of one token, cached or computed before, that a chunk of a prompt is computed behind.
        decode_sequence_s: cost of one more call in a decode step.
        kv_token_s: cost of reading the KV of one token in a decode step.
        slots: calls that can decode together, 1 or more.
        kv_tokens: KV pool on the device: running calls, cached histories and preempted calls not yet moved.
        chunk_tokens: prompt tokens that one step computes at most, over all calls in it.
        host_tokens: KV pool on the host, 0 for none, for preempted calls and, as far as they leave room, histories.
        kv_bytes_per_token: size of one token's KV.
        link_bytes_per_s: rate between device and host; what comes back to the device holds the engine up.
        source: where the numbers are from.

    Raises:
        ConfigurationError: a value is out of range; the message names it.
    """

    step_s: float
    prefill_token_s: float
    prefix_token_s: float
    decode_sequence_s: float
    kv_token_s: float
    slots: int
    kv_tokens: int
    chunk_tokens: int
    host_tokens: int
    kv_bytes_per_token: int
    link_bytes_per_s: float
    source: str

    def __post_init__(self) -> None:
        at_least = {"slots": 1, "kv_tokens": 1, "chunk_tokens": 1}
        for name in (field.name for field in fields(self) if field.name != "source"):
            value = getattr(self, name)
            if value < at_least.get(name, 0) or (value == 0 and name in ("step_s", "link_bytes_per_s")):
                raise ConfigurationError(f"{name} of an engine model is out of range: {value}")

    def prefill_step_s(self, prompt_tokens: int, prefix_tokens: int) -> float:
        """Return the seconds of a step that computes `prompt_tokens` behind `prefix_tokens`, over all calls in it."""
        return self.step_s + self.prefill_token_s * prompt_tokens + self.prefix_token_s * prefix_tokens

    def decode_steps_s(self, steps: int, calls: int, kv_tokens_read: int) -> float:
        """Return the seconds of `steps` decode steps of the same calls.

        Args:
            steps: 0 or more.
            calls: calls in the batch; each grows by one token a step.
            kv_tokens_read: KV tokens read by the first of the steps.
        """
        first_s = self.step_s + self.decode_sequence_s * calls + self.kv_token_s * kv_tokens_read
        return steps * first_s + self.kv_token_s * calls * (steps * (steps - 1) // 2)

    def decode_steps_in(self, duration_s: float, calls: int, kv_tokens_read: int) -> int:
        """Return the least number of decode steps, 1 or more, that last `duration_s` seconds or longer."""
        half_growth_s = self.kv_token_s * calls / 2
        linear_s = self.decode_steps_s(1, calls, kv_tokens_read) - half_growth_s
        duration_s = max(0.0, duration_s)
        root = sqrt(linear_s * linear_s + 4 * half_growth_s * duration_s) if linear_s > 0 else 0.0
        steps = max(1, int(2 * duration_s / (linear_s + root))) if root else 1
        # The root is rounded; the steps' own sum decides.
        while self.decode_steps_s(steps, calls, kv_tokens_read) < duration_s:
            steps += 1
        while steps > 1 and self.decode_steps_s(steps - 1, calls, kv_tokens_read) >= duration_s:
            steps -= 1
        return steps

    def transfer_s(self, tokens: int) -> float:
        """Return the seconds to move the KV of `tokens` between device and host."""
        return tokens * self.kv_bytes_per_token / self.link_bytes_per_s

    def service_s(self, new_prompt_tokens: int, output_tokens: int) -> float:
        """Return the service of a call on a half-full engine: a yardstick for oracles and for the width of levels."""
        step_s = self.step_s + self.decode_sequence_s * self.slots / 2 + self.kv_token_s * self.kv_tokens / 2
        return self.prefill_token_s * new_prompt_tokens + step_s * output_tokens


PRESETS = {
    "a100-8b": EngineModel(
        step_s=0.0103,
        prefill_token_s=9.4e-5,
        prefix_token_s=8.0e-8,
        decode_sequence_s=4.0e-5,
        kv_token_s=8.0e-8,
        slots=256,
        kv_tokens=410_000,
        chunk_tokens=8192,
        host_tokens=760_000,
        kv_bytes_per_token=131_072,
        link_bytes_per_s=2.0e10,
        source="derived from published figures: 16.1 GB of bf16 weights and KV read at 80 % of 2.04 TB/s plus 0.5 ms, "
        "16 GFLOP per token at 55 % of 312 TFLOP/s, 54 GB of KV on the device, 100 GB on the host, 20 GB/s over PCIe 4",
    ),
    "h100-8b": EngineModel(
        step_s=0.0065,
        prefill_token_s=3.2e-5,
        prefix_token_s=4.9e-8,
        decode_sequence_s=1.4e-5,
        kv_token_s=4.9e-8,
        slots=256,
        kv_tokens=410_000,
        chunk_tokens=8192,
        host_tokens=760_000,
        kv_bytes_per_token=131_072,
        link_bytes_per_s=4.5e10,
        source="derived from published figures: 16.1 GB of bf16 weights and KV read at 80 % of 3.35 TB/s plus 0.5 ms, "
        "16 GFLOP per token at 50 % of 989 TFLOP/s, 54 GB of KV on the device, 100 GB on the host, 45 GB/s over PCIe 5",
    ),
    "cpu-smollm2": EngineModel(
        step_s=0.0531,
        prefill_token_s=2.0e-3,
        prefix_token_s=4.0e-6,
        decode_sequence_s=5.15e-3,
        kv_token_s=4.0e-6,
        slots=32,
        kv_tokens=65_536,
        chunk_tokens=512,
        host_tokens=262_144,
        kv_bytes_per_token=46_080,
        link_bytes_per_s=5.0e9,
        source="decode fitted to the bundled model on two cores: 17, 114 and 135 tokens/s at 1, 16 and 32 calls; "
        "prompt and transfer costs are estimates",
    ),
}
"""Engine models by name; none of them is a measurement of the machine at hand."""


def make_model(preset: str) -> EngineModel:
    """Return the engine model called `preset`.

    Raises:
        ConfigurationError: there is no such preset; the message lists those there are.
    """
    try:
        return PRESETS[preset]
    except KeyError:
        raise ConfigurationError(f"unknown preset {preset!r}; choose one of: {', '.join(PRESETS)}") from None
