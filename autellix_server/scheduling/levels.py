"""Priority levels: half-open, contiguous bins of attained service. Level 0 is the best.

Source: Autellix section 4, Algorithm 1 (queues Q_1 to Q_K with lo_1 = 0 and hi_K = infinity). The paper publishes no
bounds; `geometric_levels` holds our defaults.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from autellix_sdk.errors import ConfigurationError

DEFAULT_LEVELS = 8
DEFAULT_GROWTH = 2.0
DEFAULT_FIRST_BOUND_S = 1.0


@dataclass(frozen=True, slots=True)
class Levels:
    """Upper bounds of every level but the last, which has none.

    Attributes:
        bounds_s: seconds of attained service, strictly increasing and positive. Level ``i`` covers
            ``bounds_s[i - 1] <= service < bounds_s[i]``; empty means one level.

    Raises:
        ConfigurationError: the bounds are not positive and strictly increasing.
    """

    bounds_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(low >= high for low, high in pairwise((0.0, *self.bounds_s))):
            raise ConfigurationError(f"level bounds must be positive and increasing, got {self.bounds_s}")

    @property
    def count(self) -> int:
        """Number of levels."""
        return len(self.bounds_s) + 1

    def level_of(self, service_s: float) -> int:
        """Return the level whose bin holds `service_s` seconds of attained service."""
        return bisect_right(self.bounds_s, service_s)

    def quantum_s(self, level: int) -> float:
        """Return the seconds of service that a call may take in `level`: the width of its bin.

        The last level has no end: a call is never demoted from it, so its quantum is ``inf``.

        Source: Autellix section 4, Algorithm 1. Differs: the paper publishes no quanta.
        """
        if level >= len(self.bounds_s):
            return inf
        return self.bounds_s[level] - (self.bounds_s[level - 1] if level else 0.0)

    def until_next_s(self, service_s: float) -> float:
        """Return the seconds of service from `service_s` to the next level; ``inf`` in the last one."""
        level = self.level_of(service_s)
        return self.bounds_s[level] - service_s if level < len(self.bounds_s) else inf

    def rescaled(self, first_bound_s: float) -> Levels:
        """Return as many levels of the same proportions whose first bound is `first_bound_s` seconds."""
        return Levels(tuple(first_bound_s * (bound_s / self.bounds_s[0]) for bound_s in self.bounds_s))


def geometric_levels(
    count: int = DEFAULT_LEVELS, first_bound_s: float = DEFAULT_FIRST_BOUND_S, growth: float = DEFAULT_GROWTH
) -> Levels:
    """Return `count` levels whose bounds grow by `growth` from `first_bound_s` seconds.

    Raises:
        ConfigurationError: a parameter is out of range; the message names it.
    """
    if count < 1:
        raise ConfigurationError(f"count of levels must be at least 1, got {count}")
    if not 0 < first_bound_s < inf:
        raise ConfigurationError(f"first_bound_s must be positive, got {first_bound_s}")
    if not 1 < growth < inf:
        raise ConfigurationError(f"growth of level bounds must be over 1, got {growth}")
    return Levels(tuple(first_bound_s * growth**index for index in range(count - 1)))
