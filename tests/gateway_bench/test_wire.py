"""The HTTP of the comparison: messages and marks survive however they are cut and wrapped."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.gateway_bench.wire import BadMessage, Marks, Message, asked, chat_body, header, mark

COUNTED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A:  b \r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return the pieces of `data` between places."""
    ends = sorted({place % len(data) for place in places} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


@given(st.sampled_from([COUNTED, CHUNKED]), st.lists(st.integers(0, 200), max_size=8), st.sampled_from([b"", b"GET /"]))
def test_a_message_is_whole_when_its_last_byte_is_there(message: bytes, places: list[int], behind: bytes) -> None:
    """And what stands behind it belongs to the next."""
    found = Message()
    body = b"".join(found.feed(piece) for piece in cut(message, places))
    assert (found.whole, body, found.rest) == (True, b"hello", b"")
    alone = Message()
    alone.feed(message + behind)
    assert (alone.whole, alone.rest) == (True, behind)


def test_headers_are_found_whatever_their_case() -> None:
    """Without the blanks around them."""
    assert header(COUNTED, b"x-a") == b"b"
    assert header(COUNTED, b"x-b") is None


@pytest.mark.parametrize(
    "message",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
    ],
)
def test_an_answer_without_a_length_is_refused(message: bytes) -> None:
    """It could never be said to be whole."""
    with pytest.raises(BadMessage):
        Message().feed(message)


@given(st.lists(st.integers(0, 10**12), max_size=5), st.lists(st.integers(0, 400), max_size=8))
def test_marks_are_found_however_the_answer_is_cut(moments_us: list[int], places: list[int]) -> None:
    """In order, each once."""
    answer = b"to be " + b"".join(b'{"content": "%b"}' % mark(moment / 1e6) for moment in moments_us)
    marks = Marks()
    found = [due_s for piece in cut(answer, places) for due_s in marks.feed(piece)]
    assert [round(due_s * 1e6) for due_s in found] == moments_us


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_the_engine_is_asked_through_any_json(separators: tuple[str, str]) -> None:
    """Gateways write it anew, in their own spacing."""
    body = chat_body(40, 2.5, stream=True, prompt_bytes=2000)
    assert 2000 <= len(body) <= 2300
    assert asked(json.dumps(json.loads(body), separators=separators).encode()) == (True, 40, 2.5)
    assert asked(chat_body(3, 0, stream=False, prompt_bytes=0)) == (False, 3, 0.0)
    assert asked(b"{}") == (False, 1, 0.0)
