"""Counting events by their place in a row."""

from __future__ import annotations


class Tally:
    """How many events fell on a place in a row or behind it. Both questions take the logarithm of the row's length.

    Source: Fenwick, A New Data Structure for Cumulative Frequency Tables.

    Args:
        places: length of the row.
    """

    def __init__(self, places: int) -> None:
        self._total = 0
        # Entry `i` holds the events on the places from `i - lowest bit of i` to `i - 1`.
        self._sums = [0] * (places + 1)

    def add(self, place: int) -> None:
        """Count an event on `place`, from 0 to the length of the row; there, it is behind every place."""
        self._total += 1
        place += 1
        while place < len(self._sums):
            self._sums[place] += 1
            place += place & -place

    def from_place(self, place: int) -> int:
        """Return the number of events on `place` and behind it."""
        before = 0
        while place:
            before += self._sums[place]
            place &= place - 1
        return self._total - before
