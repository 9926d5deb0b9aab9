"""Event loops that wake when they are asked to: clients and engines of a comparison that is about microseconds."""

from __future__ import annotations

import asyncio
import select
import selectors


class PreciseSelector(selectors.EpollSelector):
    """Waits in microseconds, where epoll's own timeout has whole milliseconds and would make timers late by up to one.

    An epoll descriptor can itself be waited for, so `select` does the waiting and epoll says what is ready.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, after `timeout` seconds at the latest; `None` waits for ever, 0 not at all."""
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop with timers in microseconds; Linux only, as the engines are."""
    return asyncio.SelectorEventLoop(PreciseSelector())
