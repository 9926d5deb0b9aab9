"""How late the event loop is: the one figure that shows a gateway at its limit, whatever keeps it busy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

PERIOD_S = 0.25


async def watch_lag(
    lagged: Callable[[float], None],
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Measure until cancelled.

    Args:
        lagged: told, in seconds, 0 or more, how late the loop came back to a timer of `PERIOD_S`.
        clock: seconds, never going back.
        sleep: waits that many seconds.
    """
    while True:
        due_s = clock() + PERIOD_S
        await sleep(PERIOD_S)
        lagged(max(0.0, clock() - due_s))
