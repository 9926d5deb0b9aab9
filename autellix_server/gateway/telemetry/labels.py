"""Labels of metrics that cannot grow without bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

OTHER = "other"
"""Stands for every value that came when a label had all the values that it may have."""

_Series = TypeVar("_Series")


class BoundedLabel:
    """Keeps the first values it sees and calls every later one `OTHER`.

    Args:
        limit: how many values it keeps.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, str] = {}

    def __call__(self, value: str) -> str:
        """Return the label for a value."""
        known = self._known.get(value)
        if known is not None:
            return known
        if len(self._known) >= self._limit:
            return OTHER
        return self._known.setdefault(value, value)


class Cached(Generic[_Series]):
    """What was made for each combination of labels: looking a child up in the metrics library costs more than counting.

    Args:
        make: makes it from the labels, which must be bounded.
    """

    def __init__(self, make: Callable[..., _Series]) -> None:
        self._make = make
        self._made: dict[tuple[str, ...], _Series] = {}

    def __call__(self, *labels: str) -> _Series:
        """Return what belongs to these labels."""
        made = self._made.get(labels)
        return self._made.setdefault(labels, self._make(*labels)) if made is None else made
