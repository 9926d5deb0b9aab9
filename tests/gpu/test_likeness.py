"""What the suite takes for the same answer, and what it does not."""

from __future__ import annotations

from math import inf

import pytest

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import CallId, ProgramId
from tests.gpu.likeness import NEAR_TIE, Likeness, compare
from tests.integration.completions import Answer, lead


def answer(tokens: str, text: str | None = None, leads: float = 1.0) -> Answer:
    """An answer of one token a letter."""
    bill = CallBill(ProgramId("p"), CallId("c"), "e0", TimeSplit())
    return Answer(tokens if text is None else text, bill, [*map(ord, tokens)], [], [leads] * len(tokens))


@pytest.mark.parametrize(
    ("mine", "leads", "near_ties", "errors"),
    [
        (answer("abcd"), 1.0, 0, 0),
        (answer("abxy"), NEAR_TIE / 2, 1, 0),
        (answer("abxy"), NEAR_TIE * 2, 0, 1),
        (answer("abc"), NEAR_TIE / 2, 0, 1),
        (answer("abcde"), NEAR_TIE / 2, 0, 1),
        (answer("abcd", text="abc"), NEAR_TIE / 2, 0, 1),
    ],
    ids=["same", "near-tie", "other token", "shorter", "longer", "cut short"],
)
def test_answers_may_part_at_near_ties_alone(mine: Answer, leads: float, near_ties: int, errors: int) -> None:
    """Answers that part nowhere have to be the same text."""
    found = compare([mine], [answer("abcd", leads=leads)])
    assert (found.near_ties, len(found.errors)) == (near_ties, errors)


def test_only_what_is_alike_is_counted() -> None:
    """Tokens after the first difference answer another prompt."""
    found = compare([answer("abxyz"), answer("q")], [answer("abcde", leads=0.0), answer("q")])
    assert found == Likeness(tokens=3, near_ties=1, errors=())


def test_a_token_that_is_alone_leads_by_any_margin() -> None:
    """A grammar that leaves one choice rules the others out."""
    assert lead({"a": -0.1, "b": -0.4}) == pytest.approx(0.3)
    assert lead({"a": 0.0, "b": None}) == inf
