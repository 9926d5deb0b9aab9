"""The account of one request: every microsecond from arrival to finish is booked once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.sglang_plugin.meter import RequestMeter
from autellix_server.sglang_plugin.records import RequestRecord, critical_path


def step(
    meter: RequestMeter,
    start_us: int,
    end_us: int,
    prefilled: range = range(0),
    retractions: int = 0,
    *,
    left: bool = False,
) -> None:
    """A step of a request; a decode step unless tokens of its prompt are computed."""
    meter.step(start_us, end_us, prefilled=prefilled, retractions=retractions, left=left)


def total_us(meter: RequestMeter) -> int:
    """Everything booked so far."""
    return sum(meter.queued_us.values()) + meter.prefill_us + meter.decode_us


def test_wait_prefill_stall_and_decode_are_told_apart() -> None:
    """Queueing before the first step, a step of others, and own steps go to their own parts."""
    meter = RequestMeter(arrived_us=100, settled_us=100)
    step(meter, 150, 250, range(8))
    step(meter, 250, 270)
    step(meter, 400, 420)  # from 270 to 400 others were prefilled
    meter.finish(425)
    assert meter.queued_us == {"admission": 50, "batch": 130 + 5}
    assert (meter.prefill_us, meter.decode_us) == (100, 40)
    assert total_us(meter) == 325


def test_request_that_arrives_during_a_step_is_not_charged_for_what_came_before() -> None:
    """With overlap scheduling a step may begin before a request was there."""
    meter = RequestMeter(arrived_us=100, settled_us=100)
    step(meter, 40, 130, range(1))
    assert meter.prefill_us == 30


def test_retraction_is_its_own_cause_and_what_was_there_before_counts_as_recomputed() -> None:
    """After a retraction the wait has its cause; the token sampled last is new, all before it are not."""
    meter = RequestMeter(arrived_us=0, settled_us=0)
    step(meter, 0, 10, range(30))
    step(meter, 10, 20)
    step(meter, 70, 90, range(20), retractions=1)
    step(meter, 90, 100, range(20, 32), retractions=1)
    meter.finish(100)
    assert meter.queued_us == {"retraction": 50}
    assert meter.recomputed_tokens == 31
    assert meter.retractions == 1


@pytest.mark.parametrize(("under_way", "recomputed"), [(range(0), 1), (range(30, 60), 30)], ids=["decode", "prompt"])
def test_step_under_way_at_a_retraction_does_not_hide_its_wait(under_way: range, recomputed: int) -> None:
    """With overlap scheduling the result of the last step comes after the retraction, and is computed again."""
    meter = RequestMeter(arrived_us=0, settled_us=0)
    step(meter, 0, 10, range(30))
    step(meter, 10, 20, under_way, retractions=1, left=True)
    assert meter.recomputed_tokens == 0
    step(meter, 70, 90, range(30, 61), retractions=1)
    meter.finish(90)
    assert meter.queued_us == {"retraction": 50}
    assert meter.recomputed_tokens == recomputed


def test_prompt_that_left_between_two_chunks_recomputes_nothing() -> None:
    """It goes on where it was; the rest of it is new, however often it leaves."""
    meter = RequestMeter(arrived_us=0, settled_us=0)
    step(meter, 0, 10, range(64))
    step(meter, 30, 40, range(64, 128), retractions=1)
    step(meter, 60, 70, range(128, 150), retractions=2)
    meter.finish(70)
    assert meter.queued_us == {"retraction": 40}
    assert (meter.recomputed_tokens, meter.prefill_us) == (0, 30)


steps = st.lists(
    st.tuples(st.integers(-50, 50), st.integers(0, 50), st.integers(0, 3), st.integers(0, 3), st.booleans()),
    max_size=20,
)


@given(st.integers(0, 100), steps)
def test_parts_add_up_to_the_whole_line_for_any_sequence_of_steps(
    arrived_us: int, sequence: list[tuple[int, int, int, int, bool]]
) -> None:
    """Whatever the steps and gaps, nothing is booked twice and nothing is lost."""
    meter = RequestMeter(arrived_us, arrived_us)
    now_us, retractions = arrived_us, 0
    for gap_us, length_us, start, length, retracted in sequence:
        start_us = now_us + gap_us
        now_us = max(now_us, start_us) + length_us
        retractions += retracted
        step(meter, start_us, now_us, range(start, start + length), retractions, left=retracted)
    meter.finish(now_us + 7)
    assert total_us(meter) == now_us + 7 - arrived_us
    assert meter.recomputed_tokens >= 0
    assert all(us >= 0 for us in (*meter.queued_us.values(), meter.prefill_us, meter.decode_us))


def record(arrived_us: int, finished_us: int) -> RequestRecord:
    """A request that decoded all its life."""
    return RequestRecord("p", "0.0", arrived_us, finished_us, {}, 0, finished_us - arrived_us, 1, 0, 1, 0, 0, 0, (0, 0))


def test_critical_path_of_parallel_samples_is_the_warm_up_and_the_slowest_sample() -> None:
    """Samples that ran side by side count once; the request before them counts too."""
    warm_up, fast, slow = record(0, 10), record(12, 20), record(11, 40)
    assert critical_path([warm_up, fast, slow]) == [slow, warm_up]


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 50)), max_size=12))
def test_critical_path_never_overlaps_itself(lines: list[tuple[int, int]]) -> None:
    """Its sum fits into the wall time of the HTTP call, so no part of a bill is negative."""
    path = critical_path([record(start, start + length) for start, length in lines])
    assert all(later.arrived_us >= earlier.finished_us for later, earlier in pairwise(path))
    if lines:
        assert path[0].finished_us == max(start + length for start, length in lines)
