"""Arrivals and scaling: a load of programs that fits the engine."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice, pairwise

import pytest
from drawn_programs import programs, two_calls
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.errors import UsageError
from autellix_server.traces.arrivals import arrive_at, in_order_of_arrival, poisson_times, repeated
from autellix_server.traces.model import TraceCall, TraceError, TraceProgram, check_program
from autellix_server.traces.scaling import Scale, scale_program


def test_poisson_times_have_the_rate_and_its_variance() -> None:
    """Gaps are exponential: their mean and their standard deviation are both one over the rate."""
    times = [0.0, *islice(poisson_times(4.0, random.Random(1)), 20_000)]
    gaps = [after - before for before, after in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.25, rel=0.03)
    assert deviation == pytest.approx(0.25, rel=0.03)


def test_rates_only_stretch_the_same_process() -> None:
    """So that runs at two rates can be compared in pairs."""
    slow = islice(poisson_times(1.0, random.Random(2)), 10)
    fast = islice(poisson_times(4.0, random.Random(2)), 10)
    assert [time / 4 for time in slow] == pytest.approx(list(fast))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_above_zero(rate: float) -> None:
    """The message shows what was given."""
    with pytest.raises(UsageError, match=f"rate is {rate}; use a number of programs a second above 0"):
        poisson_times(rate, random.Random(0))


def test_new_arrivals_replace_the_times_of_calls() -> None:
    """Old call times would contradict the new arrival."""
    program = two_calls(arrival_seconds=9.0)
    timed = replace(program, calls=tuple(replace(call, t=9.0) for call in program.calls))
    (moved,) = arrive_at([timed], [1.0, 2.0])
    assert moved.arrival_seconds == 1.0
    assert [call.t for call in moved.calls] == [None, None]


def test_trace_arrivals_start_at_zero_in_order_and_can_be_sped_up() -> None:
    """Twice the speed is half the time."""
    found = in_order_of_arrival([two_calls("b", arrival_seconds=8.0), two_calls("a", arrival_seconds=4.0)], speed=2.0)
    assert [(program.program_id, program.arrival_seconds) for program in found] == [("a", 0.0), ("b", 2.0)]
    assert in_order_of_arrival([]) == []


def test_trace_arrivals_need_times() -> None:
    """Another way out is offered."""
    with pytest.raises(TraceError, match="arrival_seconds is None; give program p1 a time, or choose a Poisson rate"):
        in_order_of_arrival([two_calls()])
    with pytest.raises(UsageError, match=r"speed is 0\.0"):
        in_order_of_arrival([two_calls(arrival_seconds=0.0)], speed=0.0)


def test_repetition_takes_each_program_once_a_pass() -> None:
    """Under IDs that stay unique."""
    found = list(islice(repeated([two_calls("a"), two_calls("b"), two_calls("c")], random.Random(0)), 6))
    assert {program.program_id for program in found[:3]} == {"a", "b", "c"}
    assert {program.program_id for program in found[3:]} == {"a.2", "b.2", "c.2"}
    assert list(repeated([], random.Random(0))) == []


@given(programs(), st.floats(0.01, 4), st.floats(0.01, 4), st.floats(0, 3), st.none() | st.integers(1, 400))
def test_scaled_programs_follow_the_format(
    program: TraceProgram, prompts: float, outputs: float, gaps: float, context: int | None
) -> None:
    """Whatever the factors, and never with a call beyond the context."""
    scaled = scale_program(program, Scale(prompts, outputs, gaps, unknown_gap_s=1.0, context_tokens=context))
    if scaled is not None:
        check_program(scaled)
        assert all(call.history_tokens <= (context or 10**9) for call in scaled.calls)
        assert all(call.tool_seconds is not None for call in scaled.calls)


def test_scaling_multiplies_lengths_and_gaps_and_says_so() -> None:
    """Ten times shorter prompts, half the output, no gap where one was known."""
    scaled = scale_program(two_calls(tool_tokens=50), Scale(prompts=0.1, outputs=0.5, gaps=0.0))
    assert scaled is not None
    assert [(call.prompt_tokens, call.shared_prefix_tokens, call.output_tokens) for call in scaled.calls] == [
        (10, 0, 10),
        (13, 12, 2),
    ]
    assert [call.tool_seconds for call in scaled.calls] == [0.0, None]
    assert (scaled.tool_tokens, scaled.scaled) == (5, "prompts * 0.1, outputs * 0.5, gaps * 0")


def test_a_call_beyond_the_context_goes_with_all_that_wait_for_it() -> None:
    """Calls beside it stay; a program without a call left is none."""
    calls = (
        TraceCall("0", (), 0, 50, 0, 10),
        TraceCall("1", ("0",), 0, 500, 60, 10),
        TraceCall("2", ("1",), 0, 20, 0, 10),
        TraceCall("3", ("0",), 1, 40, 0, 10),
    )
    program = replace(two_calls(), calls=calls)
    scaled = scale_program(program, Scale(context_tokens=100))
    assert scaled is not None
    assert [call.id for call in scaled.calls] == ["0", "3"]
    assert scale_program(program, Scale(context_tokens=5)) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompts": 0.0}, r"the scale of prompts is 0\.0; use a factor above 0"),
        ({"outputs": float("nan")}, "the scale of outputs is nan"),
        ({"gaps": -1.0}, r"gaps is -1\.0; use a number of 0 or more"),
        ({"unknown_gap_s": -1.0}, r"unknown_gap_s is -1\.0"),
        ({"context_tokens": 0}, "context_tokens is 0; use 1 or more"),
        ({"calls": 0}, "calls is 0; use 1 or more"),
    ],
)
def test_a_scale_out_of_range_is_refused(fields: dict[str, float], message: str) -> None:
    """With the name and the value."""
    with pytest.raises(UsageError, match=message):
        Scale(**fields)  # type: ignore[arg-type]
