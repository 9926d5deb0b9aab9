"""What requests say, and what streams of answers mean."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from bench_world import bill
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.wire import BILL_COMMENT
from autellix_server.bench.api import AnswerReader, CallFailure, Dialect, error_words


def event(**fields: Any) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


STREAM = b"".join(
    (
        event(choices=[{"text": ""}]),
        event(choices=[{"text": " to"}]),
        event(choices=[{"text": " be"}]),
        event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 2}),
        BILL_COMMENT + bill(5, 6).encode().encode() + b"\n\n",
        b"data: [DONE]\n\n",
    )
)


def test_lengths_are_forced_from_both_ends() -> None:
    """At most and at least so many tokens, and no end before."""
    body = Dialect("completions", "tiny").body(" words", 9)
    assert (body["max_tokens"], body["min_tokens"], body["ignore_eos"]) == (9, 9, True)
    assert body["prompt"] == " words"
    assert body["stream"]


def test_free_lengths_only_have_an_upper_end() -> None:
    """What no OpenAI server refuses."""
    body = Dialect("chat", "tiny", forcing=()).body(" words", 9)
    assert body["messages"] == [{"role": "user", "content": " words"}]
    assert "min_tokens" not in body
    assert "ignore_eos" not in body


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_means_the_same_however_it_is_cut(cuts: list[int]) -> None:
    """Text, counts and bill arrive whole."""
    reader = AnswerReader(lambda: 5.0)
    places = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(places):
        reader.feed(STREAM[start:end])
    answer = reader.answer()
    assert (answer.text, answer.prompt_tokens, answer.output_tokens) == (" to be", 7, 2)
    assert answer.bill == bill(5, 6)


def test_the_first_token_is_the_first_text_not_the_first_event() -> None:
    """Chat streams begin with an event that has a role and no text; thoughts are tokens, and no text."""
    times = iter((1.0, 2.0))
    reader = AnswerReader(lambda: next(times))
    reader.feed(event(choices=[{"delta": {"role": "assistant", "content": None}}]))
    reader.feed(event(choices=[{"delta": {"reasoning_content": "hm"}}]))
    reader.feed(event(choices=[{"delta": {"content": "yes"}}]) + b"data: [DONE]\n\n")
    answer = reader.answer()
    assert (answer.text, answer.first_s, answer.ended_s) == ("yes", 1.0, 2.0)


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (event(choices=[{"text": "x"}]), "ended before its answer"),
        (event(error={"message": "the engine died"}), "broke off: the engine died"),
        (b"data: <html>\n", "no stream of completions"),
        (b"data: [1]\n", "no stream of completions"),
        (b"data: 7\n", "no stream of completions"),
    ],
)
def test_a_stream_that_is_no_answer_is_a_failure(stream: bytes, words: str) -> None:
    """Nothing is taken for an answer that is none."""
    reader = AnswerReader(lambda: 0.0)

    def read() -> None:
        reader.feed(stream)
        reader.answer()

    with pytest.raises(CallFailure, match=words):
        read()


def test_an_unreadable_bill_is_no_bill() -> None:
    """The call counts as one without."""
    reader = AnswerReader(lambda: 0.0)
    reader.feed(BILL_COMMENT + b"{}\n\ndata: [DONE]\n\n")
    assert reader.answer().bill is None


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({"error": {"message": "too long"}}, "too long"),
        ({"error": "no"}, "no"),
        ({"message": "flat"}, "flat"),
        ("<html>\n oops", "<html> oops"),
    ],
)
def test_error_replies_are_told_in_words(reply: object, words: str) -> None:
    """Whatever their shape."""
    assert error_words(reply) == words
