"""How much two sets of answers differ: not at all, or where two tokens were as good as equally likely."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from tests.integration.completions import Answer

NEAR_TIE = 1e-3
"""Lead of the likeliest token, in log probability, that rounding may undo: a hundred times what rounding makes in a
random model of 32 layers in float32, and a hundredth of what a few tokens' wrong KV makes."""


@dataclass(frozen=True)
class Likeness:
    """What comparing answers found.

    Attributes:
        tokens: how many are alike; of an answer, those before its first difference.
        near_ties: answers that part where the likeliest token leads by less than `NEAR_TIE`.
        errors: answers that differ otherwise, in words.
    """

    tokens: int
    near_ties: int
    errors: tuple[str, ...]


def compare(answers: Iterable[Answer], expected: Iterable[Answer]) -> Likeness:
    """Compare answers with what they should be.

    Args:
        answers: asked for with ``return_token_ids``.
        expected: as many, asked for with ``logprobs: 2`` besides.
    """
    tokens, near_ties = 0, 0
    errors: list[str] = []
    for number, (answer, calm) in enumerate(zip(answers, expected, strict=True)):
        pairs = zip(answer.tokens, calm.tokens, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        tokens += same
        if same == len(answer.tokens) == len(calm.tokens):
            if answer.text != calm.text:
                errors.append(f"answer {number}: {answer.text!r} instead of {calm.text!r}")
        elif same < min(len(answer.tokens), len(calm.tokens)) and calm.leads[same] < NEAR_TIE:
            near_ties += 1
        else:
            errors.append(
                f"answer {number}: parts at token {same} of {len(calm.tokens)}: {calm.leads[same : same + 1]}"
            )
    return Likeness(tokens, near_ties, tuple(errors))
