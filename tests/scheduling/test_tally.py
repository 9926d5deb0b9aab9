"""Counting events by their place in a row."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autellix_server.scheduling.tally import Tally


@given(st.integers(0, 40).flatmap(lambda places: st.tuples(st.just(places), st.lists(st.integers(0, places)))))
def test_counts_are_those_of_a_plain_list(case: tuple[int, list[int]]) -> None:
    """After every event, from every place on, the end of the row included."""
    places, events = case
    tally = Tally(places)
    for number, event in enumerate(events, start=1):
        tally.add(event)
        seen = events[:number]
        assert [tally.from_place(place) for place in range(places + 1)] == [
            sum(other >= place for other in seen) for place in range(places + 1)
        ]
