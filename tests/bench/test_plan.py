"""What is run, in which order, and what of it counts."""

from __future__ import annotations

from math import inf

import pytest
from bench_world import A, B, call, program
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.errors import UsageError
from autellix_server.bench.plan import ALONE, Cut, Pace, arrivals_at, counted_numbers, fit, interleave
from autellix_server.traces.scaling import Scale


def test_arms_alternate_forwards_and_backwards() -> None:
    """What drifts with time falls on both, and a server serves twice in a row."""
    rounds = interleave([A, B], [Pace(1.0), Pace(2.0)], repeats=2)
    assert [(one.arm.name, one.pace.rate, one.repeat) for one in rounds] == [
        ("a", 1.0, 0),
        ("b", 1.0, 0),
        ("b", 2.0, 0),
        ("a", 2.0, 0),
        ("a", 1.0, 1),
        ("b", 1.0, 1),
        ("b", 2.0, 1),
        ("a", 2.0, 1),
    ]


def test_the_unloaded_round_comes_first_and_once() -> None:
    """Each arm shows once how fast it is alone."""
    rounds = interleave([A, B], [Pace(1.0)], repeats=2, alone=True)
    assert [one.arm.name for one in rounds] == ["a", "b", "b", "a", "a", "b"]
    assert [one.pace == ALONE for one in rounds] == [True, True, False, False, False, False]


def test_first_and_last_part_do_not_count() -> None:
    """A share is one of the time between first and last arrival."""
    times = [float(second) for second in range(11)]
    assert counted_numbers(times, Cut(share=0.2), Cut(seconds=3.0)) == frozenset(range(2, 8))


def test_all_at_once_counts_as_a_whole() -> None:
    """A share of nothing is nothing."""
    assert counted_numbers([0.0, 0.0], Cut(share=0.1), Cut(share=0.1)) == {0, 1}


def test_a_cut_that_leaves_nothing_is_refused_with_the_flag() -> None:
    """The message names flags, numbers and remedy."""
    with pytest.raises(UsageError, match=r"--warmup 60 s and --cooldown 10 % leave none of 2 .* more --programs"):
        counted_numbers([0.0, 1.0], Cut(seconds=60), Cut(share=0.1))


@given(
    times=st.lists(st.floats(0, 1000), min_size=1, max_size=30).map(sorted),
    warmup=st.floats(0, 0.49),
    cooldown=st.floats(0, 0.49),
)
def test_what_counts_is_one_run_of_numbers(times: list[float], warmup: float, cooldown: float) -> None:
    """A cut takes from the ends only."""
    try:
        kept = counted_numbers(times, Cut(share=warmup), Cut(share=cooldown))
    except UsageError:
        return
    assert kept == frozenset(range(min(kept), max(kept) + 1))


def test_rates_stretch_the_same_arrivals() -> None:
    """Programs keep their order and their place, so that rates compare program by program."""
    programs = [program(name=str(number)) for number in range(5)]
    slow, fast = (arrivals_at(programs, Pace(rate), seed=3) for rate in (1.0, 4.0))
    assert [one.program_id for one in slow] == [one.program_id for one in fast]
    for late, early in zip(slow, fast, strict=True):
        assert late.arrival_seconds == pytest.approx(4 * (early.arrival_seconds or 0))


def test_infinite_rate_is_all_at_once_and_no_rate_the_trace_times() -> None:
    """The first program of a trace arrives at 0."""
    programs = [program(at_s=7.0, name="late"), program(at_s=5.0, name="early")]
    assert [one.arrival_seconds for one in arrivals_at(programs, Pace(inf), 0)] == [0.0, 0.0]
    timed = arrivals_at(programs, Pace(None), 0)
    assert [(one.program_id, one.arrival_seconds) for one in timed] == [("early", 0.0), ("late", 2.0)]


def test_programs_are_cut_to_their_first_calls_and_say_so() -> None:
    """Parents stand earlier, so that what is left is whole."""
    (small,) = fit([program(call("0"), call("1", "0"), call("2", "1"))], Scale(prompts=0.5, calls=2))
    assert [one.id for one in small.calls] == ["0", "1"]
    assert small.calls[0].prompt_tokens == 10
    assert small.scaled == "prompts * 0.5, first 2 calls"


def test_a_context_that_fits_nothing_is_refused_with_the_flag() -> None:
    """The user learns which flag to turn."""
    with pytest.raises(UsageError, match="--scale-context 5"):
        fit([program()], Scale(context_tokens=5))
