"""Distributions of counts and times, given by their quantiles: what is written down is what one can look up."""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Sequence
from statistics import NormalDist

_STANDARD_NORMAL = NormalDist()


class Quantiles:
    """A distribution of numbers of 0 or more, between whose quantiles ``1 + x`` is interpolated geometrically.

    Heavy tails need no special case: each further quantile says how far the tail goes, and the last is the largest
    value there can be.

    Args:
        points: ``(share, value)`` pairs, both rising; the first share is 0 and the last 1.

    Raises:
        ValueError: the points are not such pairs.
    """

    def __init__(self, *points: tuple[float, float]) -> None:
        shares = [share for share, _ in points]
        values = [value for _, value in points]
        if len(points) < 2 or shares[0] != 0 or shares[-1] != 1 or not _rising(shares) or values[0] < 0:
            raise ValueError(f"quantiles {points} must go from share 0 to share 1, rising, with values of 0 or more")
        if any(low > high for low, high in itertools.pairwise(values)):
            raise ValueError(f"the values of the quantiles {points} must not fall")
        self._shares = shares
        self._logs = [math.log1p(value) for value in values]

    def at(self, share: float) -> float:
        """Return the value below which `share` (0 to 1) of the distribution lies."""
        upper = min(max(bisect.bisect_right(self._shares, share), 1), len(self._shares) - 1)
        low, high = self._shares[upper - 1], self._shares[upper]
        part = (share - low) / (high - low)
        return math.expm1(self._logs[upper - 1] * (1 - part) + self._logs[upper] * part)

    @property
    def mean(self) -> float:
        """The exact mean."""
        segments = zip(self._shares, self._logs, self._shares[1:], self._logs[1:], strict=False)
        return sum((to - start) * _mean_between(low, high) for start, low, to, high in segments)

    def draw(self, rng: random.Random) -> float:
        """Draw a value."""
        return self.at(rng.random())

    def draw_count(self, rng: random.Random) -> int:
        """Draw a value and round it to a whole number."""
        return round(self.draw(rng))

    def draw_count_alike(self, rng: random.Random, bent: float, likeness: float) -> int:
        """Draw one of several counts that are alike, such as the answer lengths of one conversation.

        Args:
            rng: source of randomness.
            bent: what they have in common: a draw from the standard normal distribution.
            likeness: correlation (0 to 1) of the underlying normal scores; the distribution over all groups stays
                exactly this one.
        """
        score = math.sqrt(likeness) * bent + math.sqrt(1 - likeness) * rng.gauss(0, 1)
        return round(self.at(_STANDARD_NORMAL.cdf(score)))


def _rising(numbers: Sequence[float]) -> bool:
    return all(low < high for low, high in itertools.pairwise(numbers))


def _mean_between(low: float, high: float) -> float:
    """Mean of ``exp(y) - 1`` for `y` even between `low` and `high`."""
    if high == low:
        return math.expm1(low)
    return (math.exp(high) - math.exp(low)) / (high - low) - 1
