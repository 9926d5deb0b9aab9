"""Whether KV that lies in host memory is loaded or computed again: from what both were measured to take. Pure.

HiCache loads what is at least so many tokens; `load_threshold` says how many. Loading takes a time by itself and a time
for each token, of the link; computing takes a time for each token. The step that it happens in is taken either way.

Source: Autellix section 4.3, efficient memory management. Differs: the paper always swaps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

NEVER = 1 << 31
"""A threshold that no KV reaches, in tokens."""

_LEAST_TOKENS = 64
"""Tokens that a step has to compute to be counted, and half of what the largest did.

Of smaller ones the time is mostly that of any step.
"""

_MEMORY = 0.9
"""What is left of a step's weight when the next one is counted: about the latest ten count."""


@dataclass(frozen=True, slots=True)
class LoadCost:
    """What it takes to load KV from host memory.

    Attributes:
        fixed_s: seconds for a load of any size.
        token_s: seconds for each token of it.
    """

    fixed_s: float
    token_s: float

    @classmethod
    def of_two(cls, few: tuple[int, float], many: tuple[int, float]) -> LoadCost:
        """Return the cost that two loads show.

        Args:
            few: tokens of one, at least one, and the seconds that it took.
            many: the same of a larger one.
        """
        token_s = max(0.0, many[1] - few[1]) / (many[0] - few[0])
        return cls(max(0.0, few[1] - few[0] * token_s), token_s)


def load_threshold(load: LoadCost, prefill_tokens_s: float | None) -> int:
    """Return the fewest tokens that are loaded sooner than they are computed, at least 1, at most `NEVER`.

    Args:
        load: what loading takes.
        prefill_tokens_s: tokens computed in a second; `None`: not known yet, and everything is loaded.
    """
    if prefill_tokens_s is None:
        return 1
    # What a token gains, which has to make up for the fixed time.
    gain_s = 1 / prefill_tokens_s - load.token_s
    if load.fixed_s >= gain_s * NEVER:
        return NEVER
    return math.floor(load.fixed_s / gain_s) + 1


class PrefillRate:
    """Tokens that the engine's steps compute in a second, of the latest steps that computed prompts."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._length_s = 0.0
        self._largest = 0

    @property
    def tokens_s(self) -> float | None:
        """The rate; `None` until a step was counted."""
        return self._tokens / self._length_s if self._length_s > 0 else None

    def step(self, tokens: int, length_s: float) -> bool:
        """Count a step, and return whether it counts.

        Args:
            tokens: that it computed as prompts.
            length_s: seconds that it took.
        """
        if tokens < _LEAST_TOKENS or length_s <= 0:
            return False
        self._largest = max(self._largest, tokens)
        if 2 * tokens < self._largest:
            return False
        self._tokens = self._tokens * _MEMORY + tokens
        self._length_s = self._length_s * _MEMORY + length_s
        return True
