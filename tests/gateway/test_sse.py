"""The scanner of event streams: one line changes, everything else is passed on at once."""

from __future__ import annotations

from collections.abc import Coroutine
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.wire import BILL_COMMENT
from autellix_server.gateway.sse import MAX_COMMENT_BYTES, BillScanner

EVENTS = b'data: {"a": ": autellix {}"}\n\n: ping\n\n:\n\n: autellix\n\ndata: x\r\n\r\n'
LINES = st.lists(
    st.sampled_from([b"data: x", b"", b":", b": autellix", b": autellixes", b"data: : autellix {}", b" : autellix {}"])
    | st.binary(max_size=30).map(lambda text: text.replace(b"\n", b"")).filter(lambda text: not text.startswith(b": a"))
)


def done(work: Coroutine[None, None, bytes]) -> bytes:
    """Return the result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        result: bytes = end.value
        return result
    raise AssertionError("it waits")


def upper(bills: list[bytes]) -> BillScanner:
    """A scanner that notes every bill and passes it on in capitals."""

    async def settle(bill: bytes) -> bytes:
        bills.append(bill)
        return bill.upper()

    return BillScanner(settle)


def scan(chunks: list[bytes]) -> tuple[bytes, list[bytes]]:
    """Return what a scanner makes of a whole stream, and the bills in it."""
    bills: list[bytes] = []
    scanner = upper(bills)
    return b"".join([*(done(scanner.feed(chunk)) for chunk in chunks), scanner.end()]), bills


@given(before=LINES, after=LINES, cuts=st.lists(st.integers(0, 400)), ending=st.sampled_from([b"\n", b"\r\n"]))
def test_only_the_bill_changes_wherever_the_chunks_are_cut(
    before: list[bytes], after: list[bytes], cuts: list[int], ending: bytes
) -> None:
    """Every other byte arrives, in order."""
    head = b"".join(line + b"\n" for line in before)
    tail = b"\n".join(after)
    stream = head + BILL_COMMENT + b'{"bill": 1}' + ending + tail
    places = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    chunks = [stream[start:end] for start, end in pairwise(places)]
    scanned, bills = scan(chunks)
    assert scanned == head + BILL_COMMENT + b'{"BILL": 1}' + ending + tail
    assert bills == [b'{"bill": 1}']


@given(cuts=st.lists(st.integers(0, len(EVENTS))))
def test_a_stream_without_a_bill_is_unchanged(cuts: list[int]) -> None:
    """Comments and content that resemble ours are not ours."""
    places = sorted({0, *cuts, len(EVENTS)})
    chunks = [EVENTS[start:end] for start, end in pairwise(places)]
    assert scan(chunks) == (EVENTS, [])


@given(chunk=st.binary(max_size=40))
def test_nothing_is_held_back_but_the_beginning_of_a_bill(chunk: bytes) -> None:
    """What may become our comment is the last line, and only if it begins like it."""
    passed_on = done(upper([]).feed(chunk))
    held = chunk[len(passed_on) :]
    assert b"\n" not in held
    assert BILL_COMMENT.startswith(held) or held.startswith(BILL_COMMENT)


def test_each_of_two_bills_is_settled() -> None:
    """Whether the second is believed is decided by who settles."""
    scanned, bills = scan([BILL_COMMENT + b"a\n\n" + BILL_COMMENT + b"b\n\n"])
    assert bills == [b"a", b"b"]
    assert scanned == BILL_COMMENT + b"A\n\n" + BILL_COMMENT + b"B\n\n"


def test_a_bill_that_is_not_believed_is_left_out() -> None:
    """The events around it stay whole."""

    async def disbelieve(bill: bytes) -> None:
        return None

    events = b"data: 1\n\n" + BILL_COMMENT + b"x\n\ndata: [DONE]\n\n"
    assert done(BillScanner(disbelieve).feed(events)) == b"data: 1\n\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("split", [True, False])
def test_a_line_too_long_to_be_a_bill_is_passed_on(split: bool) -> None:
    """Memory held per stream is bounded."""
    line = BILL_COMMENT + b"x" * MAX_COMMENT_BYTES
    scanned, bills = scan([line, b"yz\n"] if split else [line + b"yz\n"])
    assert scanned == line + b"yz\n"
    assert bills == []


def test_a_stream_cut_within_a_bill_ends_with_what_was_there() -> None:
    """Bytes held back are not lost when the stream ends early."""
    assert scan([b"data: 1\n\n: autell"]) == (b"data: 1\n\n: autell", [])
