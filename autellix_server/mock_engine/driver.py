"""Runs a simulated engine in time: lets it proceed when its next event is due, and tells calls what they were given.

The engine jumps over many decode steps at once. While somebody streams, the driver looks at it at the end of a step,
but at most once in `pace_s`: a token reaches its stream that much later than the model says, or less. Completions and
plans happen at the model's own times, however late the driver comes to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from autellix_server.mock_engine.clock import Clock, Moment
from autellix_server.simulator.engine import SimEngine
from autellix_server.simulator.programs import SimCall


class LiveCall:
    """One call in the engine, awaited by one task. Made by `Driver.submit`.

    Attributes:
        call: the engine's own.
    """

    def __init__(self, call: SimCall) -> None:
        self.call = call
        self._tokens = 0
        self._more = asyncio.Event()

    async def more(self) -> int:
        """Wait until there are more tokens than last time, and return how many there are in all.

        A call that is not a stream has its tokens all at once, when it is done.
        """
        await self._more.wait()
        self._more.clear()
        return self._tokens

    def tell(self, tokens: int) -> None:
        """Note how many tokens there are."""
        if tokens > self._tokens:
            self._tokens = tokens
            self._more.set()


class Driver:
    """Drives one engine. One event loop, no threads; `run` must be running for calls to get on.

    Args:
        clock: virtual time.
        make_engine: builds the engine, given what it calls when a call is done.
        pace_s: see above; virtual seconds, 0 for every step.
    """

    def __init__(
        self,
        clock: Clock,
        make_engine: Callable[[Callable[[SimCall, float], None]], SimEngine],
        pace_s: float,
    ) -> None:
        self.engine = make_engine(self._done)
        self._clock = clock
        self._pace_s = pace_s
        self._live: dict[SimCall, LiveCall] = {}
        self._streams: set[SimCall] = set()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Drive the engine for ever; to be cancelled."""
        while True:
            self._wake.clear()
            now = self._clock.read().virtual_s
            while self.engine.next_s <= now:
                self.engine.proceed()
            for call in self._streams:
                self._live[call].tell(self.engine.generated(call, now))
            await self._clock.wait(self._next_s(now), self._wake)

    def settle(self) -> Moment:
        """Let the engine do all that was due before now, and return the time; what arrives now goes before the rest."""
        now = self._clock.read()
        while self.engine.next_s < now.virtual_s:
            self.engine.proceed()
        return now

    def submit(self, call: SimCall, now: float, *, streams: bool) -> LiveCall:
        """Let a call arrive.

        Args:
            call: not seen before.
            now: the virtual time that `settle` returned, with nothing awaited since.
            streams: whether it is told of its tokens as they come.
        """
        live = self._live[call] = LiveCall(call)
        if streams:
            self._streams.add(call)
        self.engine.arrive(call, now)
        self._wake.set()
        return live

    def abort(self, live: LiveCall) -> None:
        """Take a call out whose client left; nothing happens if it is done or was taken out before."""
        now = self.settle().virtual_s
        if self._live.pop(live.call, None) is not None:
            self._streams.discard(live.call)
            self.engine.abort(live.call, now)
            self._wake.set()

    def _next_s(self, now: float) -> float:
        """Return when there is something to do next."""
        if not self._streams:
            return self.engine.next_s
        return min(self.engine.next_s, max(self.engine.step_ends_s(now), now + self._pace_s))

    def _done(self, call: SimCall, now: float) -> None:
        live = self._live.pop(call, None)
        self._streams.discard(call)
        if live is not None:
            live.tell(call.generated)
