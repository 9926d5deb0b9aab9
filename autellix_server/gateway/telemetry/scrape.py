"""``GET /metrics``: the gateway's own metrics and those of every engine, as one answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

import aiohttp
from aiohttp import hdrs, web

from autellix_server.gateway.telemetry.exposition import Exposition, merge
from autellix_server.gateway.telemetry.metrics import CONTENT_TYPE, GatewaySample, Metrics

_log = logging.getLogger(__name__)

ANSWER_LIMIT_S = 3.0
"""Less than a third of what Prometheus waits by default: engines that hang must not cost the whole scrape."""

AT_ONCE = 16
"""Engines that are asked at the same time."""

MAX_ANSWER_BYTES = 8 << 20
"""An engine that shows more is passed over: SGLang shows some 200 KB."""


@dataclass(frozen=True, slots=True)
class ScrapeTarget:
    """An engine to ask for its metrics.

    Attributes:
        engine: its name.
        url: where it answers, without a path.
        key: its API key, `None` when it needs none.
    """

    engine: str
    url: str
    key: str | None = None


class MetricsEndpoint:
    """Handler of ``/metrics``. One per gateway; lives on the event loop, within `lifetime`.

    Args:
        metrics: of the gateway.
        sample: says how the gateway is now.
        targets: says which engines are there to be asked.
    """

    _session: aiohttp.ClientSession

    def __init__(
        self,
        metrics: Metrics,
        sample: Callable[[], GatewaySample],
        targets: Callable[[], Iterable[ScrapeTarget]],
    ) -> None:
        self._metrics = metrics
        self._sample = sample
        self._targets = targets
        self._one_at_a_time = asyncio.Lock()
        self._places = asyncio.Semaphore(AT_ONCE)

    async def lifetime(self, app: web.Application) -> AsyncIterator[None]:
        """Hold the connections to the engines while the application runs; for its `cleanup_ctx`."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),  # An engine closes before the next scrape.
            timeout=aiohttp.ClientTimeout(total=ANSWER_LIMIT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as self._session:
            yield

    async def handle(self, request: web.Request) -> web.Response:
        """Answer with every metric there is; an engine that shows none now is left out. Always 200."""
        async with self._one_at_a_time:
            return await self._answer()

    async def _answer(self) -> web.Response:
        targets = list(self._targets())
        answers = await asyncio.gather(*map(self._ask_in_turn, targets))
        self._metrics.scraped(
            (target.engine, answer is not None) for target, answer in zip(targets, answers, strict=True)
        )
        self._metrics.take(self._sample())
        # Tens of milliseconds for a large fleet, during which calls go on.
        text = await asyncio.to_thread(self._merged, [answer for answer in answers if answer is not None])
        return web.Response(body=text.encode(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    def _merged(self, answers: list[Exposition]) -> str:
        return merge([Exposition(self._metrics.expose(), CONTENT_TYPE), *answers])

    async def _ask_in_turn(self, target: ScrapeTarget) -> Exposition | None:
        async with self._places:  # Its time runs from here, however long others took.
            return await self._ask(target)

    async def _ask(self, target: ScrapeTarget) -> Exposition | None:
        headers = {hdrs.ACCEPT: CONTENT_TYPE}
        if target.key is not None:
            headers[hdrs.AUTHORIZATION] = f"Bearer {target.key}"
        try:
            async with self._session.get(f"{target.url}/metrics", headers=headers, raise_for_status=True) as reply:
                body = bytearray()
                async for chunk in reply.content.iter_any():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        _log.warning("the metrics of engine %s are over %d bytes", target.engine, MAX_ANSWER_BYTES)
                        return None
                kind = reply.headers.get(hdrs.CONTENT_TYPE, "")
                return Exposition(body.decode("utf-8", "replace"), kind, target.engine)
        except (aiohttp.ClientError, TimeoutError) as error:
            _log.debug("engine %s shows no metrics: %s", target.engine, type(error).__name__)
            return None
