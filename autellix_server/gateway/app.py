"""The gateway's application: routes, checks of every request, and what lives as long as it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from autellix_server.balancing.balancer import make_balancer
from autellix_server.engine.command import POLICY_OFF, is_planned
from autellix_server.gateway.calls import CallLedger
from autellix_server.gateway.dispatch import Dispatcher
from autellix_server.gateway.engines import EnginesApi, shown_fleet
from autellix_server.gateway.exchange import drop_added_headers
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.holding import Holding
from autellix_server.gateway.fleet.line import Line
from autellix_server.gateway.fleet.specs import EngineSpec
from autellix_server.gateway.fleet.view import FleetView
from autellix_server.gateway.fleet.window import Window, WindowSettings
from autellix_server.gateway.guard import HostGuard, OriginGuard, is_loopback
from autellix_server.gateway.programs import ProgramsApi
from autellix_server.gateway.proxy import Proxy
from autellix_server.gateway.recording import Recording, open_trace
from autellix_server.gateway.refusal import unavailable
from autellix_server.gateway.replies import error_reply, refused_reply
from autellix_server.gateway.settings import ServeSettings
from autellix_server.scheduling.planner import Planner, PlannerSettings
from autellix_server.scheduling.policies import make_policy
from autellix_server.scheduling.table import Program, ProgramTable, TableLimits
from autellix_server.stamp import EndedPrograms

_EXPIRY_PERIOD_S = 1.0
_DRAIN_S = 2.0
"""What calls in flight get to finish when the gateway stops; then they are cancelled."""


def make_ledger(settings: ServeSettings, clock: Callable[[], float]) -> CallLedger:
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


def make_line(settings: ServeSettings, spec: EngineSpec, clock: Callable[[], float] = time.monotonic) -> Line | None:
    """Return the line in front of an engine without our planner; `None` where the policy orders nothing."""
    if not is_planned(settings.policy):
        return None
    bounds = settings.bounds
    planner_settings = PlannerSettings(beta=settings.beta, hold_s=0.0, calibrated=bounds.calibrated)
    planner = Planner(make_policy(settings.policy, bounds.levels), planner_settings)
    return Line(Holding(planner), Window(WindowSettings(fixed=spec.window)), clock)


def make_dispatcher(settings: ServeSettings, fleet: Fleet, clock: Callable[[], float] = time.monotonic) -> Dispatcher:
    """Return what decides for a fleet, with an empty ledger.

    Raises:
        ConfigurationError: the trace to record cannot be written, see `open_trace`.
    """
    return Dispatcher(fleet, make_ledger(settings, clock), make_balancer(settings.balancer))


@dataclass(frozen=True, slots=True)
class Apps:
    """The applications of one gateway.

    Attributes:
        main: what clients use; started first and stopped last, since it holds what both need.
        admin: what operators use, `None` where `main` has that as well.
    """

    main: web.Application
    admin: web.Application | None


def make_apps(settings: ServeSettings, dispatcher: Dispatcher) -> Apps:
    """Return the applications.

    Args:
        settings: of the gateway.
        dispatcher: has the engines and the program table; the applications are its only writers.
    """
    fleet, ledger = dispatcher.fleet, dispatcher.ledger
    view = FleetView(fleet, ledger.table)
    proxy = Proxy(dispatcher)
    programs, engines, status = ProgramsApi(dispatcher), EnginesApi(fleet), _Status(fleet, ledger)

    async def models(request: web.Request) -> web.StreamResponse:
        return await (view.models() if fleet.mixed else proxy.handle(request))

    for_all = (
        web.get("/health", status.health),
        web.get("/ready", status.ready),
        web.post("/autellix/v1/programs", programs.open),
        web.get("/autellix/v1/programs", programs.list),
        web.post("/autellix/v1/programs/end", programs.end),
        web.get("/autellix/v1/programs/{id}", programs.get),
        web.post("/autellix/v1/programs/{id}/pause", programs.pause),
        web.post("/autellix/v1/programs/{id}/resume", programs.resume),
        web.post("/autellix/v1/programs/{id}/boost", programs.boost),
        web.post("/autellix/v1/programs/{id}/cancel", programs.cancel),
    )
    for_clients = (
        web.get("/v1/models", models),
        web.route(hdrs.METH_ANY, "/v1/{path:.*}", proxy.handle),
    )
    for_operators = (
        web.get("/metrics", view.metrics),
        web.get("/autellix/v1/engines", engines.list),
        web.post("/autellix/v1/engines/{name}/drain", engines.drain),
        web.post("/autellix/v1/engines/{name}/restore", engines.restore),
    )
    main, admin = bare_app(settings), None
    main.add_routes((*for_all, *for_clients))
    if settings.admin_port is not None:
        admin = bare_app(settings)
        admin.add_routes((*for_all, *for_operators))
    elif is_loopback(settings.host):
        main.add_routes(for_operators)
    main.cleanup_ctx.extend((proxy.lifetime, view.lifetime, _upkeep(ledger)))
    main.on_response_prepare.append(drop_added_headers)
    return Apps(main, admin)


def bare_app(settings: ServeSettings) -> web.Application:
    """Return an application without routes, which checks who asks."""
    hosts = HostGuard((settings.host, settings.admin_host, *settings.allowed_hosts))
    checks = _checks(hosts, OriginGuard(settings.allowed_origins))
    return web.Application(middlewares=[checks], client_max_size=settings.max_body_bytes)


def make_runner(app: web.Application) -> web.AppRunner:
    """Return what runs one of the applications of `make_apps` on a socket."""
    return web.AppRunner(
        app,
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
                "engines": shown_fleet(self._fleet),
                "programs": len(self._ledger.table),
                "counters": asdict(self._ledger.counters),
                "recording": None if recording is None else asdict(recording.counts),
            }
        )

    async def ready(self, request: web.Request) -> web.Response:
        """Answer 200 when calls can be served, else 503 with the reason."""
        if self._fleet.serving(None, self._ledger.clock()):
            return web.json_response({"ready": True})
        return refused_reply(unavailable(self._fleet.detail))
