"""Virtual time: the seconds of the engine model, tied to the wall clock by the speed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import NamedTuple, Protocol


class Moment(NamedTuple):
    """One moment in both times, in seconds.

    Attributes:
        virtual_s: the engine model's time.
        wall_s: wall time, from any origin.
    """

    virtual_s: float
    wall_s: float


class Clock(Protocol):
    """Two times that never go back. Lives on the event loop; `wait` is awaited by one task at a time."""

    def read(self) -> Moment:
        """Return both times."""

    async def wait(self, until_s: float, wake: asyncio.Event) -> None:
        """Return when it is `until_s` in virtual time (``inf``: never) or `wake` is set; a little earlier is allowed.

        A cancelled wait leaves nothing behind.
        """

    def slow(self, factor: float, wall_s: float) -> None:
        """Let virtual time pass `factor` times as slowly for `wall_s` seconds of wall time; replaces the last call."""


class WallClock:
    """Virtual time that passes `speed` times as fast as the wall clock.

    Args:
        speed: virtual seconds per wall second, over 0.
        read: the wall clock, in seconds.
    """

    def __init__(self, speed: float = 1.0, read: Callable[[], float] = time.monotonic) -> None:
        self._speed = speed
        self._read = read
        self._last = Moment(0.0, read())
        self._factor = 1.0
        self._slow_until_s = -inf

    def read(self) -> Moment:
        """Return both times; virtual time was 0 when the clock was made."""
        virtual_s, last_wall_s = self._last
        wall_s = self._read()
        slow_s = max(0.0, min(wall_s, self._slow_until_s) - last_wall_s)
        virtual_s += (wall_s - last_wall_s - slow_s + slow_s / self._factor) * self._speed
        self._last = Moment(virtual_s, wall_s)
        return self._last

    def slow(self, factor: float, wall_s: float) -> None:
        """Slow down from now on, for a while."""
        self._slow_until_s = self.read().wall_s + wall_s
        self._factor = factor

    async def wait(self, until_s: float, wake: asyncio.Event) -> None:
        """Wait; at the end of a slow while for a moment only."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wall_until(until_s)):
                await wake.wait()

    def _wall_until(self, until_s: float) -> float | None:
        """Return the wall seconds to `until_s`, no more than the slow while lasts; `None`: for ever."""
        if until_s == inf:
            return None
        now = self.read()
        delay_s = max(0.0, until_s - now.virtual_s) / self._speed
        slow_s = self._slow_until_s - now.wall_s
        return min(delay_s * self._factor, slow_s) if slow_s > 0 else delay_s
