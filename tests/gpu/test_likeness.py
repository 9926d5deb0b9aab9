"""What the suite takes for the same answer, and what it does not."""

from __future__ import annotations

from math import inf

import pytest

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import CallId, ProgramId
from tests.gpu.likeness import NEAR_TIE, Likeness, compare
from tests.integration.completions import Answer, lead

TINY = NEAR_TIE / 2


def answer(tokens: str, logprob: float = -1.0, leads: float = 1.0, text: str | None = None) -> Answer:
    """An answer of one token a letter."""
    bill = CallBill(ProgramId("p"), CallId("c"), "e0", TimeSplit())
    steps = len(tokens)
    return Answer(tokens if text is None else text, bill, list(tokens), [logprob] * steps, [leads] * steps)


@pytest.mark.parametrize(
    ("mine", "near_ties", "errors"),
    [
        (answer("abcd"), 0, 0),
        (answer("abcd", logprob=-1 - TINY), 0, 0),
        (answer("abxy", leads=TINY), 1, 0),
        (answer("abxy"), 0, 1),
        (answer("abcd", logprob=-1.1), 0, 1),
        (answer("abxy", logprob=-1.1, leads=TINY), 0, 1),
        (answer("abc"), 0, 1),
        (answer("abcd", text="abc"), 0, 1),
    ],
    ids=["same", "rounded", "near-tie", "other token", "other odds", "other odds, near-tie", "shorter", "cut short"],
)
def test_answers_may_part_at_near_ties_alone(mine: Answer, near_ties: int, errors: int) -> None:
    """Everything before that has to agree, and answers that part nowhere are the same text."""
    found = compare([mine], [answer("abcd")])
    assert (found.near_ties, len(found.errors)) == (near_ties, errors)


def test_only_what_is_alike_is_counted() -> None:
    """Tokens after the first difference answer another prompt."""
    found = compare([answer("abxyz", leads=TINY), answer("q")], [answer("abcde"), answer("q")])
    assert found == Likeness(tokens=3, largest=0.0, near_ties=1, errors=())


def test_a_token_that_is_alone_leads_by_any_margin() -> None:
    """A grammar that leaves one choice rules the others out."""
    assert lead({"a": -0.1, "b": -0.4}) == pytest.approx(0.3)
    assert lead({"a": 0.0, "b": None}) == inf
