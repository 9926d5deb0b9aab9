"""The time bill: exact sums, round trip, refusal of what does not add up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.bill import CallBill, ProgramBill, TimeSplit, decode_bill, program_bill_from_json, sum_time
from autellix_sdk.errors import WireError
from autellix_sdk.wire import CallId, ProgramId

counts = st.integers(0, 2**53)
splits = st.builds(
    TimeSplit,
    queued_us=st.dictionaries(st.sampled_from(["admission", "retraction", "batch"]), counts),
    prefill_us=counts,
    decode_us=counts,
    swap_us=counts,
    other_us=counts,
)
bills = st.builds(
    CallBill,
    program=st.just(ProgramId("p")),
    call=st.just(CallId("0.0")),
    engine=st.text(max_size=8),
    time=splits,
    service_us=counts,
    prompt_tokens=counts,
    level=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)


@given(bills)
def test_call_bill_survives_the_wire_in_one_ascii_line(bill: CallBill) -> None:
    """A bill fits a header value and an SSE comment, and its parts add up on both sides."""
    text = bill.encode()
    assert text.isascii()
    assert "\n" not in text
    decoded = decode_bill(text)
    assert decoded == bill
    assert json.loads(text)["wall_us"] == decoded.time.wall_us


@given(st.lists(bills, max_size=5))
def test_sum_over_calls_keeps_every_microsecond(many: list[CallBill]) -> None:
    """Wall time of a sum is the sum of wall times."""
    assert sum_time(many).wall_us == sum(bill.time.wall_us for bill in many)


@given(splits, st.none() | st.text(max_size=5), counts)
def test_program_bill_survives_json(time: TimeSplit, name: str | None, count: int) -> None:
    """The programs API returns what the table holds."""
    bill = ProgramBill(ProgramId("p"), name, count, 1, 2, time, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    assert program_bill_from_json(json.loads(json.dumps(bill.to_json()))) == bill


def _record(**changes: object) -> str:
    record = json.loads(CallBill(ProgramId("p"), CallId("0.0"), "e0", TimeSplit(decode_us=5)).encode())
    return json.dumps(record | changes)


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "{}",
        _record(wall_us=6),
        _record(prefill_us=-1),
        _record(prefill_us=1.5),
        _record(service_us=True),
        _record(queued_us=[1]),
        _record(level=[1]),
    ],
)
def test_bill_that_does_not_add_up_is_refused(text: str) -> None:
    """A client or gateway never books a bill it cannot trust."""
    with pytest.raises(WireError, match="time bill"):
        decode_bill(text)


def test_a_program_bill_without_the_later_fields_is_read() -> None:
    """A server that does not count them sends none; they are 0."""
    bill = ProgramBill(ProgramId("p"), None, 1, 0, 1, TimeSplit(), 3, 4, 5, 6, 7, 8, 9)
    record = bill.to_json()
    del record["recomputed_tokens"], record["swapped_tokens"]
    assert program_bill_from_json(record) == bill
