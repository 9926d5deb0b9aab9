"""Finds engines that hang: they are there, accept connections, and answer nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import aiohttp

from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.fleet.member import Member

_log = logging.getLogger(__name__)

_PERIOD_S = 2.0
_ANSWER_LIMIT_S = 5.0
_SERVER_ERROR = 500


class Prober:
    """Asks every engine for its health. Run it as a task, for as long as the fleet is served.

    Any answer is a sign of life, and so is every call that is answered to its end: an engine that is only busy is not
    taken for dead.

    Args:
        fleet: the engines.
        hang_limit_s: an engine that gives no sign of life for so long is lost: its calls go elsewhere or end with an
            error, and it is started again if it was started here; ``inf``: none is.
        clock: of the ledger, in seconds.
    """

    def __init__(self, fleet: Fleet, hang_limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet = fleet
        self._hang_limit_s = hang_limit_s
        self._clock = clock
        self._away: set[str] = set()

    async def run(self) -> None:
        """Ask until cancelled."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER_LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                await asyncio.gather(*(self._probe(session, member) for member in self._fleet))
                await asyncio.sleep(_PERIOD_S)

    async def _probe(self, session: aiohttp.ClientSession, member: Member) -> None:
        address, clock = member.address, self._clock
        if address is None:
            # Who watches it has noticed first; connections that were open may still hang.
            self._away.add(member.name)
            if member.calls:
                self._judge(member, clock())
            return
        if member.name in self._away or not member.alive_s:
            self._away.discard(member.name)
            member.alive_s = clock()
        try:
            async with session.get(f"{address.url}/health", allow_redirects=False) as reply:
                member.alive_s = clock()
                sick = reply.status >= _SERVER_ERROR
                member.breaker.probed(f"/health answers {reply.status}" if sick else None, clock())
        except (aiohttp.ClientError, TimeoutError) as error:
            member.breaker.probed(str(error) or "no answer", clock())
            self._judge(member, clock())

    def _judge(self, member: Member, now: float) -> None:
        silent_s = now - member.alive_s
        if silent_s > self._hang_limit_s:
            self._lose(member, f"gave no sign of life for {silent_s:.0f} s")

    def _lose(self, member: Member, reason: str) -> None:
        _log.warning("engine %s %s", member.name, reason)
        member.lose_calls(Interruption(f"the engine {reason}", "engine_lost", retryable=True))
        member.engine.condemn(reason)
