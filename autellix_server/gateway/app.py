"""The gateway's application: routes, checks of every request, and what lives as long as it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from autellix_server.balancing.balancer import make_balancer
from autellix_server.engine.command import POLICY_OFF
from autellix_server.gateway.calls import CallLedger
from autellix_server.gateway.dispatch import Dispatcher
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.member import Member
from autellix_server.gateway.fleet.view import FleetView
from autellix_server.gateway.guard import HostGuard, OriginGuard
from autellix_server.gateway.programs import ProgramsApi
from autellix_server.gateway.proxy import Proxy, drop_added_headers
from autellix_server.gateway.recording import Recording, open_trace
from autellix_server.gateway.refusal import unavailable
from autellix_server.gateway.replies import error_reply, refused_reply
from autellix_server.gateway.settings import ServeSettings
from autellix_server.scheduling.policies import make_policy
from autellix_server.scheduling.table import Program, ProgramTable, TableLimits
from autellix_server.stamp import EndedPrograms

_EXPIRY_PERIOD_S = 1.0
_DRAIN_S = 2.0
"""What calls in flight get to finish when the gateway stops; then they are cancelled."""


def make_ledger(settings: ServeSettings, clock: Callable[[], float] = time.monotonic) -> CallLedger:
    """Return an empty ledger; with the policy off the table still counts calls.

    Raises:
        ConfigurationError: the trace to record cannot be written, see `open_trace`.
    """
    policy = make_policy("fcfs" if settings.policy == POLICY_OFF else settings.policy, settings.bounds.levels)
    limits = TableLimits(lease_s=settings.lease_s)
    recording = None if settings.record_trace is None else Recording(open_trace(settings.record_trace))
    ended = EndedPrograms()

    def on_end(row: Program) -> None:
        ended.add(row)
        if recording is not None:
            recording.ended(row)

    return CallLedger(ProgramTable(policy, limits, on_end), clock, recording, ended)


def make_app(settings: ServeSettings, fleet: Fleet, ledger: CallLedger) -> web.Application:
    """Return the application.

    Args:
        settings: of the gateway.
        fleet: the engines behind it.
        ledger: where calls are entered; the application is its only writer.
    """
    hosts, origins = HostGuard((settings.host, *settings.allowed_hosts)), OriginGuard(settings.allowed_origins)
    app = web.Application(middlewares=[_checks(hosts, origins)], client_max_size=settings.max_body_bytes)
    view = FleetView(fleet, ledger.table)
    dispatcher = Dispatcher(fleet, ledger, make_balancer(settings.balancer))
    programs, status = ProgramsApi(dispatcher), _Status(fleet, ledger)
    app.router.add_get("/health", status.health)
    app.router.add_get("/ready", status.ready)
    app.router.add_get("/metrics", view.metrics)
    app.router.add_post("/autellix/v1/programs", programs.open)
    app.router.add_get("/autellix/v1/programs", programs.list)
    app.router.add_post("/autellix/v1/programs/end", programs.end)
    app.router.add_get("/autellix/v1/programs/{id}", programs.get)
    app.router.add_post("/autellix/v1/programs/{id}/pause", programs.pause)
    app.router.add_post("/autellix/v1/programs/{id}/resume", programs.resume)
    app.router.add_post("/autellix/v1/programs/{id}/boost", programs.boost)
    app.router.add_post("/autellix/v1/programs/{id}/cancel", programs.cancel)

    proxy = Proxy(dispatcher)

    async def models(request: web.Request) -> web.StreamResponse:
        return await (view.models() if fleet.mixed else proxy.handle(request))

    app.router.add_get("/v1/models", models)
    app.router.add_route(hdrs.METH_ANY, "/v1/{path:.*}", proxy.handle)
    app.cleanup_ctx.extend((proxy.lifetime, view.lifetime, _upkeep(ledger)))
    app.on_response_prepare.append(drop_added_headers)
    return app


def make_runner(settings: ServeSettings, fleet: Fleet, ledger: CallLedger) -> web.AppRunner:
    """Return what runs the application of `make_app` (same arguments) on a socket."""
    return web.AppRunner(
        make_app(settings, fleet, ledger),
        handler_cancellation=True,  # A client that leaves cancels its call, which the engine then aborts.
        auto_decompress=False,  # A compressed request body goes to the engine as it came.
        access_log=None,
        shutdown_timeout=_DRAIN_S,
    )


def _upkeep(ledger: CallLedger) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return what ends programs by lease while the application runs, and closes the ledger; for its `cleanup_ctx`."""

    async def expire() -> None:
        while True:
            await asyncio.sleep(_EXPIRY_PERIOD_S)
            ledger.expire()

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        expiry = asyncio.create_task(expire())
        yield
        expiry.cancel()
        ledger.close()

    return lifetime


def _checks(hosts: HostGuard, origins: OriginGuard) -> Middleware:
    """Return the middleware that every request passes: who may ask, and errors as JSON."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = _refusal(request, hosts, origins)
        if refusal is not None:
            return refusal
        try:
            return await handler(request)
        except web.HTTPException as error:
            return error_reply(error.status, error.text or error.reason, error.reason.lower().replace(" ", "_"))

    return check


def _refusal(request: web.Request, hosts: HostGuard, origins: OriginGuard) -> web.Response | None:
    host = request.headers.get(hdrs.HOST, "")
    if not hosts.allows(host):
        message = f"requests to {host!a} are refused; start with AUTELLIX_ALLOWED_HOSTS to answer under that name"
        return error_reply(403, message, "host_refused")
    # Browsers can reach loopback, and the engine behind us lets every page read its answers.
    origin = request.headers.get(hdrs.ORIGIN)
    if not origins.allows(origin, host):
        message = f"web pages of {origin!a} are refused; start with AUTELLIX_ALLOWED_ORIGINS to let them in"
        return error_reply(403, message, "origin_refused")
    if request.path.startswith("/v1/"):
        return None
    if request.method == hdrs.METH_POST and request.content_type != "application/json":
        return error_reply(415, "the body must be application/json", "json_required")
    return None


class _Status:
    """Handlers of ``/health`` and ``/ready``."""

    def __init__(self, fleet: Fleet, ledger: CallLedger) -> None:
        self._fleet = fleet
        self._ledger = ledger

    async def health(self, request: web.Request) -> web.Response:
        """Say that the gateway is alive, and how its engines are. Always 200."""
        recording = self._ledger.recording
        return web.json_response(
            {
                "status": "ok",
                "version": version("autellix"),
                "engines": {member.name: _shown(member) for member in self._fleet},
                "programs": len(self._ledger.table),
                "counters": asdict(self._ledger.counters),
                "recording": None if recording is None else asdict(recording.counts),
            }
        )

    async def ready(self, request: web.Request) -> web.Response:
        """Answer 200 when calls can be served, else 503 with the reason."""
        if self._fleet.serving(None):
            return web.json_response({"ready": True})
        return refused_reply(unavailable(self._fleet.detail))


def _shown(member: Member) -> dict[str, Any]:
    """Return what people and tools are shown of an engine."""
    status = member.status
    return {
        "state": status.state,
        "detail": status.detail,
        "pid": status.pid,
        "restarts": status.restarts,
        "models": status.models,
        "limits": None if status.limits is None else status.limits.to_json(),
        "bounds": None if status.address is None else member.bounds,
        "calls": len(member.calls),
        "draining": member.draining,
    }
