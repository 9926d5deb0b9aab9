"""Virtual time on a wall clock that is moved by hand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import inf

import pytest

from autellix_server.mock_engine.clock import WallClock


@dataclass
class Hand:
    """Wall time."""

    at_s: float = 100.0

    def __call__(self) -> float:
        """Return it."""
        return self.at_s


def test_the_speed_is_virtual_seconds_per_second() -> None:
    """From zero."""
    hand = Hand()
    clock = WallClock(10.0, hand)
    hand.at_s += 2.0
    assert clock.read() == (20.0, 102.0)


def test_slow_lasts_for_a_while() -> None:
    """Four times slower for three seconds, then as before, however rarely somebody looks."""
    hand = Hand()
    clock = WallClock(1.0, hand)
    hand.at_s += 1.0
    clock.slow(4.0, 3.0)
    hand.at_s += 2.0
    assert clock.read().virtual_s == pytest.approx(1.5)
    hand.at_s += 2.0
    assert clock.read().virtual_s == pytest.approx(1.0 + 0.75 + 1.0)


def test_slow_is_over_when_it_is_called_off() -> None:
    """A factor of 1 for no time."""
    hand = Hand()
    clock = WallClock(1.0, hand)
    clock.slow(4.0, 100.0)
    clock.slow(1.0, 0.0)
    hand.at_s += 2.0
    assert clock.read().virtual_s == pytest.approx(2.0)


async def test_a_wait_ends_with_the_time_or_when_it_is_woken() -> None:
    """A virtual hour at a high speed; for ever, but woken."""
    clock = WallClock(1e6)
    wake = asyncio.Event()
    await clock.wait(3600.0, wake)
    assert clock.read().virtual_s >= 3600.0
    wake.set()
    await clock.wait(inf, wake)


async def test_a_slow_clock_waits_for_longer() -> None:
    """No sooner than it should."""
    clock = WallClock(1000.0)
    clock.slow(10.0, 60.0)
    begin_s = clock.read().wall_s
    await clock.wait(clock.read().virtual_s + 1.0, asyncio.Event())
    assert clock.read().wall_s - begin_s >= 0.0099
