"""The condition of the engine as a whole: the faults that befall it rather than one call."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from autellix_server.mock_engine.clock import Clock
from autellix_server.mock_engine.faults import Fault


class Condition:
    """Slow, unhealthy or dead, for a while or for good.

    Args:
        clock: is slowed down, and measures how long things last.
        die: ends the process at once.
    """

    def __init__(self, clock: Clock, die: Callable[[], None]) -> None:
        self._clock = clock
        self._die = die
        self._healthy_from_s = -inf

    @property
    def healthy(self) -> bool:
        """Whether the engine says that it is healthy."""
        return self._clock.read().wall_s >= self._healthy_from_s

    def befall(self, fault: Fault) -> None:
        """Let a fault take place, one of `faults.ENGINE_KINDS`; it takes the place of an earlier one of its kind."""
        if fault.kind == "slow":
            self._clock.slow(fault["factor"], fault["seconds"])
        elif fault.kind == "unhealthy":
            self._healthy_from_s = self._clock.read().wall_s + fault["seconds"]
        else:
            self._die()

    def recover(self) -> None:
        """Be as fast and as healthy as ever."""
        self._clock.slow(1.0, 0.0)
        self._healthy_from_s = -inf
