"""The mock engine as a server: its routes, what it tells about itself, the control of its faults, its life."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from autellix_sdk.errors import ConfigurationError
from autellix_server.listening import BACKLOG, base_url
from autellix_server.mock_engine.calls import CallsApi
from autellix_server.mock_engine.clock import Clock, WallClock
from autellix_server.mock_engine.condition import Condition
from autellix_server.mock_engine.engine import MockEngine
from autellix_server.mock_engine.faults import ENGINE_KINDS, FaultBox, StandingFault, make_fault
from autellix_server.mock_engine.replies import error_body
from autellix_server.simulator.run import SimulationSettings

MAX_FAULTS = 100_000
"""Most faults that one request to the control endpoint may schedule."""

_MAX_BODY_BYTES = 64 << 20
_DRAIN_S = 0.5
_DIED = 70


@dataclass(frozen=True, slots=True)
class MockSettings:
    """What a mock engine is.

    Attributes:
        simulation: engine model, policy, levels and planner; the number of engines and the balancer do not matter.
        model_name: what the model is called.
        engine_name: the engine's name in bills.
        speed: virtual seconds per wall second, over 0.
        secret: shared with the gateway, whose stamps are then believed.
        faults: faults at a standing rate.
        seed: of their draws.
    """

    simulation: SimulationSettings
    model_name: str = "mock"
    engine_name: str = "mock"
    speed: float = 1.0
    secret: bytes | None = field(default=None, repr=False)
    faults: tuple[StandingFault, ...] = ()
    seed: int = 0


class MockServer:
    """One mock engine and its application, not yet listening.

    Args:
        settings: what it is.
        clock: virtual time; `None`: the wall clock at the speed of the settings.
        die: ends the process at once.
    """

    def __init__(
        self, settings: MockSettings, clock: Clock | None = None, die: Callable[[], None] = lambda: os._exit(_DIED)
    ) -> None:
        clock = clock or WallClock(settings.speed)
        self.engine = MockEngine(
            settings.simulation, clock, speed=settings.speed, name=settings.engine_name, secret=settings.secret
        )
        self.faults = FaultBox(settings.faults, settings.seed)
        self._settings = settings
        self._condition = Condition(clock, die)

    def make_app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[_errors_as_json], client_max_size=_MAX_BODY_BYTES)
        calls = CallsApi(self.engine, self._settings.model_name, self.faults, self._condition)
        app.router.add_post("/v1/chat/completions", calls.chat)
        app.router.add_post("/v1/completions", calls.complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/loads", self._loads)
        app.router.add_get("/health", self._health)
        app.router.add_get("/health_generate", self._health)
        app.router.add_get("/server_info", self._server_info)
        app.router.add_route("*", "/flush_cache", self._flush_cache)
        app.router.add_get("/mock/faults", self._show_faults)
        app.router.add_post("/mock/faults", self._order_faults)
        app.router.add_delete("/mock/faults", self._clear_faults)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        model = {"id": self._settings.model_name, "object": "model", "created": 0, "owned_by": "autellix"}
        return web.json_response({"object": "list", "data": [model]})

    async def _loads(self, request: web.Request) -> web.Response:
        engine, model = self.engine, self._settings.simulation.model
        load = {
            "dp_rank": 0,
            "num_running_reqs": engine.running,
            "num_waiting_reqs": engine.waiting,
            "num_used_tokens": engine.pinned_tokens,
            "max_total_num_tokens": model.kv_tokens,
            "token_usage": engine.pinned_tokens / model.kv_tokens,
        }
        return web.json_response({"loads": [load]})

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self._condition.healthy else 503)

    async def _server_info(self, request: web.Request) -> web.Response:
        engine, settings, model = self.engine, self._settings, self._settings.simulation.model
        return web.json_response(
            {
                "model_path": settings.model_name,
                "served_model_name": settings.model_name,
                "max_running_requests": model.slots,
                "max_total_num_tokens": model.kv_tokens,
                "chunked_prefill_size": model.chunk_tokens,
                "mock_engine": {
                    "version": version("autellix"),
                    "policy": settings.simulation.policy,
                    "speed": settings.speed,
                    "seed": settings.seed,
                    "engine_model": asdict(model),
                    "virtual_s": engine.clock.read().virtual_s,
                    "waiting": engine.waiting,
                    "running": engine.running,
                    "programs": engine.programs,
                    "bounds": engine.bounds.to_json(),
                    "counters": asdict(engine.counters),
                    "faults": self.faults.to_json(),
                },
            }
        )

    async def _flush_cache(self, request: web.Request) -> web.Response:
        if self.engine.flush():
            return web.Response(text="Cache flushed.\n")
        return web.Response(status=400, text="The cache is not flushed: calls are in the engine.\n")

    async def _show_faults(self, request: web.Request) -> web.Response:
        return web.json_response(self.faults.to_json())

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self.faults.clear()
        self._condition.recover()
        return await self._show_faults(request)

    async def _order_faults(self, request: web.Request) -> web.Response:
        """Schedule faults for the next calls; those that befall the engine take place at once."""
        try:
            if request.content_type != "application/json":
                raise ConfigurationError("send the order as application/json")
            self._order(_order_in(await request.read()))
        except ConfigurationError as error:
            return web.json_response(error_body(str(error), 400), status=400)
        return await self._show_faults(request)

    def _order(self, order: Any) -> None:
        if not isinstance(order, dict):
            raise ConfigurationError('an order is an object, such as {"kind": "refuse", "status": 429, "count": 3}')
        count = order.pop("count", 1)
        fault = make_fault(order.pop("kind", None), order)
        if type(count) is not int or not 1 <= count <= MAX_FAULTS:
            raise ConfigurationError(f"count is {count!a}; write a whole number from 1 to {MAX_FAULTS}")
        if fault.kind not in ENGINE_KINDS:
            self.faults.schedule(fault, count)
        elif count == 1:
            self.faults.count(fault)
            self._condition.befall(fault)
        else:
            raise ConfigurationError(f"{fault.kind} befalls the engine, at once; leave count out")


@asynccontextmanager
async def listening(server: MockServer, host: str, port: int) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    """Run a server for as long as the context lasts.

    Args:
        server: not running yet.
        host: address to listen on.
        port: port to listen on, 0 for a free one.

    Yields:
        Its URL, and the task that computes, which ends only by an error.

    Raises:
        ConfigurationError: the port is in use or the address is not this machine's; says what to do.
    """
    runner = web.AppRunner(server.make_app(), handler_cancellation=True, access_log=None, shutdown_timeout=_DRAIN_S)
    await runner.setup()
    life = asyncio.create_task(server.engine.run())
    try:
        try:
            await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
        except OSError as error:
            reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise ConfigurationError(f"cannot listen on {host} port {port}: {reason}; choose another") from error
        yield base_url(*runner.addresses[0][:2]), life
    finally:
        await runner.cleanup()
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


def _order_in(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the order is not JSON: {error}") from error


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        headers = {hdrs.ALLOW: error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else None
        return web.json_response(
            error_body(error.text or error.reason, error.status), status=error.status, headers=headers
        )
