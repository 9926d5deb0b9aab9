"""The endpoint that shows the gateway's metrics and those of its engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from autellix_server.gateway.telemetry import scrape
from autellix_server.gateway.telemetry.metrics import CONTENT_TYPE, GatewaySample, Metrics
from autellix_server.gateway.telemetry.scrape import AT_ONCE, MetricsEndpoint, ScrapeTarget

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Run an application and return its address."""
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def engine(handler: Handler) -> AsyncIterator[str]:
    """Run an engine that answers its metrics like this."""
    app = web.Application()
    app.router.add_get("/metrics", handler)
    async with serving(app) as url:
        yield url


@asynccontextmanager
async def gateway(*targets: ScrapeTarget) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """Run an endpoint in front of these engines, and return what asks it."""
    endpoint = MetricsEndpoint(Metrics(), lambda: GatewaySample(programs=7), lambda: targets)
    app = web.Application()
    app.router.add_get("/metrics", endpoint.handle)
    app.cleanup_ctx.append(endpoint.lifetime)

    async def ask() -> str:
        async with aiohttp.ClientSession() as client, client.get(url + "/metrics") as reply:
            assert (reply.status, reply.headers["Content-Type"]) == (200, CONTENT_TYPE)
            return await reply.text()

    async with serving(app) as url:
        yield ask


async def test_engines_are_shown_with_the_gateway() -> None:
    """Each under its name, asked with its key; one that keeps no metrics or is away is said to be left out."""
    keys = []

    async def show(request: web.Request) -> web.Response:
        keys.append(request.headers.get("Authorization"))
        assert request.headers["Accept"] == CONTENT_TYPE
        return web.Response(body=b"# TYPE load gauge\nload 5\n", headers={"Content-Type": "text/plain"})

    async def nothing(_: web.Request) -> web.Response:
        return web.Response(status=404)

    async with (
        engine(show) as first,
        engine(nothing) as second,
        gateway(
            ScrapeTarget("e0", first, "k"),
            ScrapeTarget("e1", first),
            ScrapeTarget("e2", second),
            ScrapeTarget("e3", "http://127.0.0.1:1"),
        ) as ask,
    ):
        lines = (await ask()).splitlines()
    assert sorted(map(str, keys)) == ["Bearer k", "None"]
    assert [line for line in lines if line.startswith("load")] == ['load{engine="e0"} 5', 'load{engine="e1"} 5']
    assert "autellix_gateway_programs 7.0" in lines
    shown = [line for line in lines if line.startswith("autellix_gateway_engine_scraped")]
    assert [line[-3:] for line in shown] == ["1.0", "1.0", "0.0", "0.0"]


async def test_engines_are_asked_side_by_side_and_not_all_at_once() -> None:
    """None of the first answers before as many were asked as may be; the next ones wait."""
    asked, most, full = 0, 0, asyncio.Event()

    async def show(_: web.Request) -> web.Response:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        if asked == AT_ONCE:
            full.set()
        await full.wait()
        asked -= 1
        return web.Response(body=b"a 1\n")

    async with engine(show) as url, gateway(*(ScrapeTarget(f"e{n}", url) for n in range(AT_ONCE + 4))) as ask:
        assert (await ask()).count("a{engine=") == AT_ONCE + 4
    assert most == AT_ONCE


async def test_an_engine_that_hangs_or_shows_too_much_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are shown all the same, also those that are asked after it."""
    monkeypatch.setattr(scrape, "AT_ONCE", 1)
    monkeypatch.setattr(scrape, "ANSWER_LIMIT_S", 1.0)
    monkeypatch.setattr(scrape, "MAX_ANSWER_BYTES", 10)

    async def hang(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def flood(_: web.Request) -> web.Response:
        return web.Response(body=b"a 1\n" * 100)

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=b"b 1\n")

    async with (
        engine(hang) as first,
        engine(flood) as second,
        engine(show) as third,
        gateway(*(ScrapeTarget(f"e{n}", url) for n, url in enumerate((first, second, third)))) as ask,
    ):
        lines = (await ask()).splitlines()
    assert [line for line in lines if line[:2] in ("a{", "b{")] == ['b{engine="e2"} 1']
