"""A clock that jumps, small engines, and running servers for the mock engine's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

import aiohttp

from autellix_server.mock_engine.clock import Clock, Moment, WallClock
from autellix_server.mock_engine.requests import Ask
from autellix_server.mock_engine.server import MockServer, MockSettings, listening
from autellix_server.mock_engine.tokens import id_tokens
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.simulator.model import EngineModel
from autellix_server.simulator.run import SimulationSettings
from tests.simulator.worlds import MODEL

_IDLE_TURNS = 20


class JumpClock:
    """Virtual time that stands still while a task has something to do, and then jumps to what is due first.

    It moves only inside `running`. Wall time is virtual time.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._entries = count()
        self.slowed: list[tuple[float, float]] = []

    def now_s(self) -> float:
        """Return the virtual time."""
        return self._now_s

    def read(self) -> Moment:
        """Return it as both times."""
        return Moment(self._now_s, self._now_s)

    def slow(self, factor: float, wall_s: float) -> None:
        """Note that somebody asked for it."""
        self.slowed.append((factor, wall_s))

    async def wait(self, until_s: float, wake: asyncio.Event) -> None:
        """Wait for the time or for `wake`."""
        due = asyncio.get_running_loop().create_future()
        heappush(self._sleepers, (until_s, next(self._entries), due))
        woken = asyncio.ensure_future(wake.wait())
        try:
            await asyncio.wait({due, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            due.cancel()

    async def sleep_until(self, at_s: float) -> None:
        """Wait for the time."""
        if at_s > self._now_s:
            await self.wait(at_s, asyncio.Event())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let time pass for as long as the context lasts."""
        jumper = asyncio.create_task(self._jump())
        try:
            yield
        finally:
            jumper.cancel()

    async def _jump(self) -> None:
        while True:
            for _ in range(_IDLE_TURNS):
                await asyncio.sleep(0)
            while self._sleepers and self._sleepers[0][2].done():
                heappop(self._sleepers)
            if self._sleepers and self._sleepers[0][0] < float("inf"):
                self._now_s, _, due = heappop(self._sleepers)
                due.set_result(None)


def simulation(policy: str = "fcfs", model: EngineModel = MODEL, first_bound_s: float = 1.0) -> SimulationSettings:
    """Return settings of an engine."""
    return SimulationSettings(model, policy, geometric_levels(first_bound_s=first_bound_s))


def ask(prompt: list[int] | None = None, tokens: int = 4, *, stream: bool = False) -> Ask:
    """Return a request for `tokens` tokens."""
    ids = id_tokens(prompt or [1, 2, 3])
    return Ask(False, "", ids, ids, tokens, "length", stream, usage_in_stream=False)


@dataclass
class Mock:
    """A running server and a client for it.

    Attributes:
        deaths: one entry for each time that the process would have died.
    """

    url: str
    server: MockServer
    client: aiohttp.ClientSession
    deaths: list[str] = field(default_factory=list)

    async def json(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Make a request and return status and JSON."""
        async with self.client.request(method, self.url + path, **options) as response:
            return response.status, await response.json()

    async def order(self, kind: str, **parameters: Any) -> None:
        """Order faults."""
        status, _ = await self.json("POST", "/mock/faults", json={"kind": kind, **parameters})
        assert status == 200

    async def counters(self) -> dict[str, int]:
        """Return what the engine counted."""
        _, info = await self.json("GET", "/server_info")
        return dict(info["mock_engine"]["counters"])


@asynccontextmanager
async def running_mock(
    settings: SimulationSettings | None = None, clock: Clock | None = None, **more: Any
) -> AsyncIterator[Mock]:
    """Run a server, five thousand times as fast as the wall clock unless there is another clock."""
    deaths: list[str] = []
    options = MockSettings(settings or simulation(), **{"speed": 5000.0 if clock is None else 1.0, **more})
    server = MockServer(options, clock or WallClock(options.speed), lambda: deaths.append("died"))
    async with listening(server, "127.0.0.1", 0) as (url, life), aiohttp.ClientSession() as client:
        yield Mock(url, server, client, deaths)
        if life.done():
            life.result()


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks and sockets get on until `condition` holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)
