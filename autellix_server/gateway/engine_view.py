"""What the engine shows of itself, through the gateway: its metrics, and the bounds of its levels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from math import inf
from typing import Any

import aiohttp
from aiohttp import hdrs, web

from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.proxy import Engine
from autellix_server.gateway.replies import engine_unavailable, error_reply
from autellix_server.scheduling.table import ProgramTable

_log = logging.getLogger(__name__)

_LOOK_PERIOD_S = 2.0
_ANSWER_LIMIT_S = 5.0


class EngineView:
    """Asks the engine. One per gateway; lives on the event loop, within `lifetime`.

    Args:
        engine: the engine behind the gateway.
        table: told of the engine's bounds, so that the levels it names are the engine's.
    """

    _session: aiohttp.ClientSession

    def __init__(self, engine: Engine, table: ProgramTable) -> None:
        self._engine = engine
        self._table = table
        self.bounds: Mapping[str, Any] | None = None
        """Bounds of the engine's levels as it last showed them; `None` until then, and if it has none."""

    async def lifetime(self, app: web.Application) -> AsyncIterator[None]:
        """Look at the engine again and again while the application runs; for its `cleanup_ctx`."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER_LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as self._session:
            watch = asyncio.create_task(self._watch())
            yield
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def metrics(self, request: web.Request) -> web.Response:
        """Pass the engine's Prometheus metrics on, ours among them."""
        address = self._engine.status.address
        if address is None:
            return engine_unavailable(self._engine.status.detail)
        try:
            async with self._session.get(f"{address.url}/metrics") as reply:
                if reply.status == 404:
                    return error_reply(
                        404, "the engine keeps no metrics; start it with: serve -- --enable-metrics", "no_metrics"
                    )
                body = await reply.read()
                return web.Response(
                    body=body, status=reply.status, headers={hdrs.CONTENT_TYPE: reply.headers[hdrs.CONTENT_TYPE]}
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            return engine_unavailable(f"no metrics from it: {error or 'it does not answer'}")

    async def _watch(self) -> None:
        while True:
            address = self._engine.status.address
            # An engine that is not ours has no levels.
            if address is not None and address.secret is not None:
                await self._look(address)
            await asyncio.sleep(_LOOK_PERIOD_S)

    async def _look(self, address: EngineAddress) -> None:
        headers = {hdrs.AUTHORIZATION: f"Bearer {address.key}"}
        try:
            async with self._session.get(f"{address.url}/server_info", headers=headers, raise_for_status=True) as reply:
                shown = await reply.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            _log.debug("the engine does not show its bounds: %s", error)
            return
        self.bounds = _bounds(shown)
        first_bound_s = None if self.bounds is None else self.bounds.get("first_bound_s")
        if isinstance(first_bound_s, float) and 0 < first_bound_s < inf:
            self._table.policy.rescale(first_bound_s)


def _bounds(server_info: object) -> Mapping[str, Any] | None:
    """Return what our plugin shows of its levels in ``/server_info``, `None` where it shows nothing."""
    shown: Any = server_info
    for step in ("internal_states", 0, "autellix", "bounds"):
        try:
            shown = shown[step]
        except (KeyError, IndexError, TypeError):
            return None
    return shown if isinstance(shown, Mapping) else None
