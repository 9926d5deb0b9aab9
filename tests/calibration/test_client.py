"""The stream of one completion: tokens with their times, and what was cached."""

from __future__ import annotations

import json
from typing import Any

import pytest

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import BILL_COMMENT, CallId, ProgramId
from autellix_server.calibration.client import Answer, TokenStream
from autellix_server.errors import EngineFailure


def read(*events: Any, tokens: int) -> Answer:
    """Read a stream of events, one a second; bytes are lines as they are."""
    stream = TokenStream()
    for second, event in enumerate(events, start=1):
        stream.line(
            event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n", float(second)
        )
    stream.line(b"\n", 99.0)
    stream.line(b"data: [DONE]\n", 99.0)
    return stream.answer(0.0, tokens)


def counted(tokens: int, **details: Any) -> dict[str, Any]:
    """Return an event that says how many tokens there are by now."""
    return {"choices": [{"text": ""}], "usage": {"completion_tokens": tokens, **details}}


def test_the_servers_own_count_is_taken() -> None:
    """Two tokens in one event are two; an event that brings none is no time of a token."""
    answer = read(counted(0), counted(1), counted(3), counted(3), tokens=3)
    assert answer.tokens == ((2.0, 1), (3.0, 3))
    assert (answer.first_s, answer.last_s, answer.cached_tokens) == (2.0, 3.0, None)


def test_without_a_count_an_event_is_a_token() -> None:
    """The last event, which has the usage alone, is none."""
    chunk = {"choices": [{"text": " to"}]}
    assert read(chunk, chunk, {"choices": [], "usage": {"completion_tokens": 2}}, tokens=2).tokens == ((1, 1), (2, 2))


def test_the_event_that_says_why_the_answer_is_over_is_no_token() -> None:
    """Unless it has a text as well; a token in the midst may have none."""
    empty = {"choices": [{"text": "", "finish_reason": None}]}
    over = {"choices": [{"text": "", "finish_reason": "length"}]}
    last = {"choices": [{"text": " to", "finish_reason": "length"}]}
    assert read(empty, empty, over, tokens=2).tokens == ((1, 1), (2, 2))
    assert read(empty, last, tokens=2).tokens == ((1, 1), (2, 2))


def test_cached_tokens_are_the_usages_or_the_bills() -> None:
    """Whichever there is."""
    assert read(counted(1, prompt_tokens_details={"cached_tokens": 7}), tokens=1).cached_tokens == 7
    bill = CallBill(ProgramId("p"), CallId("0"), "e0", TimeSplit(), prompt_tokens=9, cached_tokens=5)
    line = BILL_COMMENT + bill.encode().encode() + b"\n"
    assert read(counted(1, prompt_tokens_details=None), line, tokens=1).cached_tokens == 5


def test_nothing_at_all_is_refused() -> None:
    """An answer has a first token."""
    with pytest.raises(EngineFailure, match="1 tokens were asked for and 0 came"):
        read(tokens=1)
