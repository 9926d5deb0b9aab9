"""What is measured: single prompts for their first token, and batches that decode for the time of a step. Pure.

A probe is a few calls sent at the same moment. What it measured becomes one linear equation in the coefficients of the
engine model, so that all probes together give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat, takewhile
from random import Random
from statistics import median
from typing import Literal

from autellix_server.calibration.client import Answer

TOKEN_IDS = range(1000, 20_000)
"""Token IDs that prompts are drawn from: none that is special, all of them in every usual vocabulary."""

_SHORT_PROMPT = 16
_SHORT_CONTEXT = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """What fits the server; see `EngineModel` for the first three.

    Attributes:
        slots, kv_tokens, chunk_tokens: of the engine.
        context_tokens: longest prompt and output of one call together.
    """

    slots: int
    kv_tokens: int
    chunk_tokens: int
    context_tokens: int

    @property
    def long_tokens(self) -> int:
        """Length of the prefix that long contexts share: two chunks, where that leaves most of the memory free."""
        return max(_SHORT_CONTEXT, min(2 * self.chunk_tokens, self.context_tokens // 2, self.kv_tokens // 4))


@dataclass(frozen=True, slots=True)
class Counts:
    """The left side of an equation: how often each coefficient of the engine model is in the seconds measured.

    Attributes:
        steps, prefill_tokens, prefix_tokens, decode_sequences, kv_tokens: of `EngineModel`.
        requests: calls whose way to the engine and back is part of it.
    """

    steps: float
    prefill_tokens: float
    prefix_tokens: float
    decode_sequences: float
    kv_tokens: float
    requests: float


@dataclass(frozen=True, slots=True)
class Probe:
    """Calls that are sent at the same moment.

    Attributes:
        kind: ``prefill`` measures the time to the first token, ``decode`` that of a step.
        calls: how many, 1 or more.
        shared_tokens: beginning of the prompts, from the text that all probes of a round share.
        own_tokens: rest of the prompts, new to the server.
        output_tokens: tokens that each call generates.
        shared_is_cached: an earlier probe of the round had that beginning.
    """

    kind: Literal["prefill", "decode"]
    calls: int
    shared_tokens: int
    own_tokens: int
    output_tokens: int = 1
    shared_is_cached: bool = True

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        if self.kind == "decode":
            return f"decode, {self.calls} calls, context {self.prompt_tokens}"
        cached = f" after {self.shared_tokens} cached" if self.shared_tokens and self.shared_is_cached else ""
        return f"prefill, {self.prompt_tokens - self.expected_cached} tokens{cached}"

    @property
    def prompt_tokens(self) -> int:
        """Length of each prompt."""
        return self.shared_tokens + self.own_tokens

    @property
    def expected_cached(self) -> int:
        """Prompt tokens that a prefix cache has, for servers that do not say."""
        return self.shared_tokens if self.shared_is_cached else 0

    def prompts(self, salt: str) -> list[list[int]]:
        """Return the prompts; another salt has nothing in common."""
        shared = draw_tokens(f"{salt}/shared", self.shared_tokens)
        return [shared + draw_tokens(f"{salt}/{self.name}/{call}", self.own_tokens) for call in range(self.calls)]


def draw_tokens(name: str, tokens: int) -> list[int]:
    """Return the first `tokens` of an endless stream of token IDs that depends on `name` alone."""
    return Random(name).choices(TOKEN_IDS, k=tokens)


def plan_probes(limits: Limits, *, quick: bool) -> list[Probe]:
    """Return the probes of one round, in order: what a probe expects in the cache is put there by an earlier one.

    Args:
        limits: of the server.
        quick: fewer batch sizes and shorter decodes.
    """
    chunk, long = limits.chunk_tokens, limits.long_tokens
    fresh = sorted({min(_SHORT_PROMPT, long), *(min(tokens, long) for tokens in (chunk // 4, chunk // 2, chunk))} - {0})
    behind = {*((cached, _SHORT_PROMPT) for cached in (long // 4, long // 2, long)), (long, min(chunk, long) // 2)}
    outputs = 16 if quick else 32
    return [
        Probe("prefill", 1, long, 0, shared_is_cached=False),
        *(Probe("prefill", 1, 0, tokens) for tokens in fresh if tokens != long),
        *(Probe("prefill", 1, *lengths) for lengths in sorted(behind)),
        *(Probe("decode", calls, 0, _SHORT_CONTEXT, outputs) for calls in batch_sizes(limits.slots, quick=quick)),
        *(Probe("decode", calls, long, _SHORT_PROMPT, outputs) for calls in batch_sizes(limits.slots, quick=quick)),
    ]


def batch_sizes(slots: int, *, quick: bool) -> list[int]:
    """Return powers of two up to `slots`, and `slots`; of these the first, the middle and the last when `quick`."""
    doubling = accumulate(repeat(2), int.__mul__, initial=1)
    sizes = [*takewhile(lambda size: size < slots, doubling), slots]
    return sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]}) if quick else sizes


def read_answers(probe: Probe, answers: Sequence[Answer], chunk_tokens: int) -> tuple[Counts, float] | None:
    """Return what a probe measured as an equation: counts, and the seconds they took.

    Args:
        probe: what was sent.
        answers: one for each of its calls.
        chunk_tokens: prompt tokens that one step computes at most.

    Returns:
        `None` when the calls of a batch did not decode side by side for long enough.
    """
    if probe.kind == "prefill":
        (answer,) = answers
        return _prefill_counts(probe, answer, chunk_tokens), answer.first_s - answer.sent_s
    begin_s, end_s = max(answer.first_s for answer in answers), min(answer.last_s for answer in answers)
    windows = [[token for token in answer.tokens if begin_s <= token[0] <= end_s] for answer in answers]
    if min(window[-1][1] - window[0][1] if window else 0 for window in windows) < probe.output_tokens / 4:
        return None
    step_s = median((last_s - first_s) / (last - first) for (first_s, first), *_, (last_s, last) in windows)
    generated = sum((window[0][1] + window[-1][1]) / 2 for window in windows)
    return Counts(1, 0, 0, probe.calls, probe.calls * probe.prompt_tokens + generated, 0), step_s


def _prefill_counts(probe: Probe, answer: Answer, chunk_tokens: int) -> Counts:
    cached = probe.expected_cached if answer.cached_tokens is None else answer.cached_tokens
    cached = min(cached, probe.prompt_tokens - 1)
    begins = range(cached, probe.prompt_tokens, chunk_tokens)
    return Counts(len(begins), probe.prompt_tokens - cached, sum(begins), 0, 0, 1)
