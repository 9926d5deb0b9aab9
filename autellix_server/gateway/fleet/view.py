"""What engines show of themselves, through the gateway: their models, and the bounds of their levels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from math import inf
from statistics import median_low
from typing import Any

import aiohttp
from aiohttp import web

from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.fleet.answers import ask, read_json
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.member import Member
from autellix_server.scheduling.table import ProgramTable

_log = logging.getLogger(__name__)

_LOOK_PERIOD_S = 2.0
_ANSWER_LIMIT_S = 5.0


class FleetView:
    """Asks the engines. One per gateway; lives on the event loop, within `lifetime`.

    Args:
        fleet: the engines behind the gateway; what they show is kept in their members.
        table: told of the engines' bounds, so that the levels it names are theirs.
    """

    _session: aiohttp.ClientSession

    def __init__(self, fleet: Fleet, table: ProgramTable) -> None:
        self._fleet = fleet
        self._table = table

    async def lifetime(self, app: web.Application) -> AsyncIterator[None]:
        """Look at the engines again and again while the application runs; for its `cleanup_ctx`."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER_LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as self._session:
            watch = asyncio.create_task(self._watch())
            yield
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def models(self) -> web.Response:
        """Return what the engines list under ``/v1/models`` as one list, each model once."""
        lists = await asyncio.gather(*(self._models(member.address) for member in self._fleet if member.address))
        rows = {str(row.get("id")): row for listed in lists for row in reversed(listed)}
        return web.json_response({"object": "list", "data": list(rows.values())})

    async def _models(self, address: EngineAddress) -> list[dict[str, Any]]:
        try:
            async with ask(self._session, address, "/v1/models") as reply:
                reply.raise_for_status()
                listed: Any = await read_json(reply)
                return [row for row in listed["data"] if isinstance(row, dict)]
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
            _log.warning("engine %s does not list its models: %s", address.name, error)
            return []

    async def _watch(self) -> None:
        while True:
            await asyncio.gather(*map(self._look, self._fleet))
            firsts = [member.bounds["first_bound_s"] for member in self._fleet if member.bounds is not None]
            if good := [first for first in firsts if isinstance(first, float) and 0 < first < inf]:
                self._table.policy.rescale(median_low(good))
            await asyncio.sleep(_LOOK_PERIOD_S)

    async def _look(self, member: Member) -> None:
        address = member.address
        # An engine that is not ours has no levels.
        if address is not None and address.secret is not None:
            member.bounds = await self._bounds(address)

    async def _bounds(self, address: EngineAddress) -> Mapping[str, Any] | None:
        try:
            async with ask(self._session, address, "/server_info") as reply:
                return _bounds(await read_json(reply))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            _log.debug("engine %s does not show its bounds: %s", address.name, error)
            return None


def _bounds(server_info: object) -> Mapping[str, Any] | None:
    """Return what our plugin shows of its levels in ``/server_info``, `None` where it shows nothing."""
    shown: Any = server_info
    for step in ("internal_states", 0, "autellix", "bounds"):
        try:
            shown = shown[step]
        except (KeyError, IndexError, TypeError):
            return None
    return shown if isinstance(shown, Mapping) and "first_bound_s" in shown else None
