"""Where the levels' bounds lie on the engine at hand: the first follows the running median of what a call is served.

Source: Autellix section 4, which publishes no bounds. Differs: they are measured, not set.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import inf, sqrt
from typing import Any

from autellix_sdk.errors import ConfigurationError
from autellix_server.scheduling.levels import DEFAULT_FIRST_BOUND_S, Levels, geometric_levels

WINDOW = 512
"""Calls that the median is taken over, the latest."""

LEAST_CALLS = 16
"""Calls before there is a median: of so few it is right to a factor of 1.4 where calls spread by a factor of e."""

DRIFT = sqrt(2)
"""How far, as a factor, the median may be from the first bound before the bounds follow."""


@dataclass(frozen=True, slots=True)
class BoundSettings:
    """What was said about the bounds of levels; by default nothing, and they are calibrated.

    Attributes:
        first_bound_s: upper bound of the best of eight levels, in seconds of attained service, above 0; each further
            one is twice the one before. `None`: it starts at `DEFAULT_FIRST_BOUND_S` and follows the engine.
        bounds_s: every bound, positive and increasing; empty: they follow from the first.

    Raises:
        ConfigurationError: a value is out of range, or both are given; the message names the setting and the value.
    """

    first_bound_s: float | None = None
    bounds_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.first_bound_s is not None and not 0 < self.first_bound_s < inf:
            raise ConfigurationError(f"first_bound_s must be above 0 and finite, got {self.first_bound_s}")
        if not all(low < high for low, high in pairwise((0.0, *self.bounds_s, inf))):
            raise ConfigurationError(f"bounds_s must be above 0, increasing and finite, got {self.bounds_s}")
        if self.bounds_s and self.first_bound_s is not None:
            raise ConfigurationError("bounds_s names every bound, the first one too: leave out first_bound_s")

    @property
    def levels(self) -> Levels:
        """The levels to begin with."""
        if self.bounds_s:
            return Levels(self.bounds_s)
        return geometric_levels(first_bound_s=self.first_bound_s or DEFAULT_FIRST_BOUND_S)

    @property
    def calibrated(self) -> bool:
        """Whether the bounds follow the engine."""
        return self.first_bound_s is None and not self.bounds_s


@dataclass(frozen=True, slots=True)
class BoundsInUse:
    """What a planner shows of its levels. Seconds of attained service.

    Attributes:
        first_bound_s: the bound that a program leaves at that had nothing before; ``inf``: there is one level.
        bounds_s: every bound of the policy's levels.
        median_service_s: median service of the latest calls; `None` while too few were seen to say.
        calibrated: the bounds follow that median.
    """

    first_bound_s: float
    bounds_s: tuple[float, ...]
    median_service_s: float | None
    calibrated: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as plain builtins."""
        return asdict(self) | {"bounds_s": list(self.bounds_s)}


class RunningMedian:
    """The median of the last numbers seen: the upper one of two. Adding takes two binary searches and short moves.

    Args:
        window: how many numbers count, 1 or more.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []
        self._window = window

    def __len__(self) -> int:
        return len(self._latest)

    @property
    def value(self) -> float:
        """The median.

        Raises:
            IndexError: no number was seen.
        """
        return self._sorted[len(self._sorted) // 2]

    def add(self, number: float) -> None:
        """Count one number, and no longer the one that is `window` numbers older."""
        if len(self._latest) == self._window:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(number)
        insort(self._sorted, number)


class Calibration:
    """The first bound as the engine's calls suggest it. Deterministic: it follows from what calls were served alone.

    It stays where it is until the median is further away than a factor of `DRIFT`, then goes to the median. So bounds
    move with the engine and its load, and not with chance: over a full window a median varies by a tenth or so.

    Args:
        first_bound_s: where it starts, in seconds; ``inf`` where there is one level only: it never moves.
        fixed: it never moves; the median is taken all the same.
    """

    def __init__(self, first_bound_s: float, *, fixed: bool) -> None:
        self.first_bound_s = first_bound_s
        self.fixed = fixed or first_bound_s == inf
        self._served = RunningMedian()

    @property
    def median_s(self) -> float | None:
        """Median service of the latest calls in seconds; `None` while too few were seen to say."""
        return self._served.value if len(self._served) >= LEAST_CALLS else None

    def left(self, service_s: float) -> bool:
        """Count a call that left for good, and return whether the first bound moved.

        Args:
            service_s: what it was served in all, in seconds; a call that was never served says nothing.
        """
        if service_s <= 0:
            return False
        self._served.add(service_s)
        median_s = self.median_s
        if self.fixed or median_s is None or self.first_bound_s / DRIFT <= median_s <= self.first_bound_s * DRIFT:
            return False
        self.first_bound_s = median_s
        return True
