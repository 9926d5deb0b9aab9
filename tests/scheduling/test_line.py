"""Calls in order of priority."""

from __future__ import annotations

from random import Random

import pytest
from small_engine import make_call

from autellix_server.scheduling.call import Call
from autellix_server.scheduling.line import Line

CALLS = 5000


def calls_in_line(random: Random) -> tuple[Line[Call], list[Call]]:
    """A line of many calls, and the calls best first."""
    calls = [make_call(number=number, key=(number % 7, number % 11, number)) for number in range(CALLS)]
    line: Line[Call] = Line()
    for call in random.sample(calls, CALLS):
        line.add(call)
    return line, sorted(calls, key=lambda call: call.key)


def test_a_long_line_is_in_order_both_ways() -> None:
    """Whatever the order in which calls came."""
    line, calls = calls_in_line(Random(1))
    assert (len(line), list(line), list(reversed(line))) == (CALLS, calls, calls[::-1])


def test_calls_leave_a_long_line_from_anywhere() -> None:
    """First a stretch of neighbours, then at random, to the last; and the line can be used again."""
    random = Random(2)
    line, calls = calls_in_line(random)
    for call in calls[1000:4000]:
        line.remove(call)
    del calls[1000:4000]
    assert list(line) == calls
    for call in random.sample(calls, len(calls)):
        line.remove(call)
    assert (len(line), list(line)) == (0, [])
    line.add(calls[0])
    assert list(line) == calls[:1]


@pytest.mark.parametrize("count", [0, 1, 512, CALLS])
def test_a_line_is_sorted_anew_after_keys_changed(count: int) -> None:
    """Of any length; and calls come and leave after it as before."""
    random = Random(3)
    line: Line[Call] = Line()
    calls = [make_call(number=number, key=(0, 0.0, number)) for number in range(count)]
    for call in calls:
        line.add(call)
    for call in calls:
        call.key = (random.randrange(3), 0.0, call.key[2])
    line.resort()
    late = make_call("late", key=(1, 0.0, -1))
    line.add(late)
    assert list(line) == sorted([*calls, late], key=lambda call: call.key)
    for call in random.sample([*calls, late], count + 1):
        line.remove(call)
    assert (len(line), list(line)) == (0, [])


def test_call_that_is_not_in_line_is_named() -> None:
    """Also when another call stands at its place."""
    line: Line[Call] = Line()
    absent = make_call("other")
    with pytest.raises(ValueError, match=r"call 0\.0 of program other is not in line"):
        line.remove(absent)
    line.add(make_call("here"))
    with pytest.raises(ValueError, match=r"call 0\.0 of program other is not in line"):
        line.remove(absent)
