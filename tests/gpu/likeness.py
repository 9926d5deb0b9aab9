"""How much two sets of answers differ: not at all, or where two tokens were as good as equally likely."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

from tests.integration.completions import Answer

NEAR_TIE = 1e-3
"""Difference of log probabilities that rounding may make: a hundred times what it makes in a random model of 32 layers
in float32, and a hundredth of what a few tokens' wrong KV makes."""


@dataclass(frozen=True)
class Likeness:
    """What comparing answers found.

    Attributes:
        tokens: how many were compared; of an answer, those up to its first difference.
        largest: largest difference of their log probabilities.
        near_ties: answers that part where the two likeliest tokens differ by less than `NEAR_TIE`.
        errors: answers that differ otherwise, in words.
    """

    tokens: int
    largest: float
    near_ties: int
    errors: tuple[str, ...]


def compare(answers: Iterable[Answer], expected: Iterable[Answer]) -> Likeness:
    """Compare answers, asked for with ``logprobs: 2``, with what they should be."""
    tokens, largest, near_ties = 0, 0.0, 0
    errors: list[str] = []
    for number, (answer, calm) in enumerate(zip(answers, expected, strict=True)):
        same = alike(answer.tokens, calm.tokens)
        tokens += same
        steps = zip(answer.logprobs[:same], calm.logprobs[:same], strict=True)
        apart = max((abs(mine - theirs) for mine, theirs in steps), default=0.0)
        largest = max(largest, apart)
        if apart >= NEAR_TIE:
            errors.append(f"answer {number}: log probabilities differ by {apart:.2g}")
        elif same < min(len(answer.tokens), len(calm.tokens)):
            lead = min(answer.leads[same], calm.leads[same])
            if lead < NEAR_TIE:
                near_ties += 1
            else:
                errors.append(f"answer {number}: token {same} differs, though the likeliest led by {lead:.2g}")
        elif answer.text != calm.text:
            errors.append(f"answer {number}: {answer.text!r} instead of {calm.text!r}")
    return Likeness(tokens, largest, near_ties, tuple(errors))


def alike(some: list[str], others: list[str]) -> int:
    """Return how many tokens are the same before the first that is not."""
    for index, (one, other) in enumerate(zip_longest(some, others)):
        if one != other:
            return index
    return len(some)
