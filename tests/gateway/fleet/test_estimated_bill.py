"""Bills that the gateway makes itself: exact sums, and tokens from every API's answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.bill import decode_bill
from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.gateway.fleet.estimated_bill import SeenTimes, Usage, estimated_bill

CONTEXT = CallContext(ProgramId("p"), "s", 0, CallId("c"))
seconds = st.floats(-1e6, 1e6)


def test_time_is_split_by_release_and_first_byte() -> None:
    """A second at the gateway, a quarter to the first byte, two for the rest; the last two are service."""
    times = SeenTimes(arrived_s=10.0, released_s=11.0, first_byte_s=11.25, ended_s=13.25)
    bill = estimated_bill(CONTEXT, "vllm", times, Usage(100, 60, 20), (1, 2))
    assert (dict(bill.time.queued_us), bill.time.prefill_us, bill.time.decode_us) == (
        {"admission": 1_000_000},
        250_000,
        2_000_000,
    )
    assert (bill.service_us, bill.prompt_tokens, bill.cached_tokens, bill.output_tokens) == (2_250_000, 100, 60, 20)
    assert (bill.engine, bill.level) == ("vllm", (1, 2))


def test_answer_in_one_piece_is_all_decode() -> None:
    """Its first byte tells nothing."""
    bill = estimated_bill(CONTEXT, "e", SeenTimes(0.0, 1.0, None, 3.0), None, (0, 0))
    assert (bill.time.prefill_us, bill.time.decode_us, bill.prompt_tokens) == (0, 2_000_000, 0)


@given(arrived=seconds, released=seconds, first=st.none() | seconds, ended=seconds)
def test_parts_add_up_exactly(arrived: float, released: float, first: float | None, ended: float) -> None:
    """To the wall time, in whole microseconds, none of them negative, whatever the clock did; and it can be sent."""
    bill = estimated_bill(CONTEXT, "e", SeenTimes(arrived, released, first, ended), None, (0, 0))
    time = bill.time
    assert min(time.total_queued_us, time.prefill_us, time.decode_us, bill.service_us) >= 0
    assert time.total_queued_us + bill.service_us == time.wall_us
    if arrived <= released <= ended:
        assert time.wall_us == round((ended - arrived) * 1_000_000)
    assert decode_bill(bill.encode()) == bill


OPENAI = {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 60}}
RESPONSES = {"input_tokens": 100, "output_tokens": 20, "input_tokens_details": {"cached_tokens": 60}}
MESSAGES = {"input_tokens": 30, "output_tokens": 20, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 10}


@pytest.mark.parametrize(
    "answer",
    [
        {"object": "chat.completion", "usage": OPENAI},
        {"object": "response", "usage": RESPONSES},
        {"type": "response.completed", "response": {"usage": RESPONSES}},
        {"type": "message", "usage": MESSAGES},
        {"type": "message_start", "message": {"usage": MESSAGES}},
    ],
)
def test_usage_is_read_from_every_api(answer: dict[str, Any]) -> None:
    """The same hundred tokens, sixty of them cached, told in five ways."""
    assert Usage.read(answer) == Usage(100, 60, 20)


@pytest.mark.parametrize("answer", [None, [], {}, {"usage": None}, {"message": "no"}, {"choices": [], "usage": 7}])
def test_answer_may_tell_nothing(answer: object) -> None:
    """Events before the last have no usage, or null."""
    assert Usage.read(answer) is None


@pytest.mark.parametrize("nonsense", [-1, True, "7", 1.5, None, 2**60])
def test_counts_that_make_no_sense_are_not_billed(nonsense: object) -> None:
    """Engines that are not ours are not trusted with numbers either."""
    details = {"cached_tokens": nonsense}
    usage = {"prompt_tokens": nonsense, "completion_tokens": nonsense, "prompt_tokens_details": details}
    assert Usage.read({"usage": usage}) == Usage()
