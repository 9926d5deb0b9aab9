"""The gateway's applications: routes, and checks of every request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from autellix_server.gateway.connections import MAX_HEAD_BYTES, Runner, StalledBody
from autellix_server.gateway.engines import EnginesApi
from autellix_server.gateway.exchange import drop_added_headers
from autellix_server.gateway.fleet.view import FleetView
from autellix_server.gateway.gateway import Gateway
from autellix_server.gateway.guard import HostGuard, OriginGuard, is_loopback
from autellix_server.gateway.openapi import Endpoint, OpenApi
from autellix_server.gateway.programs import ProgramsApi
from autellix_server.gateway.proxy import Proxy
from autellix_server.gateway.refusal import Refused
from autellix_server.gateway.replies import error_reply, refused_reply
from autellix_server.gateway.settings import ServeSettings
from autellix_server.gateway.status import StatusApi
from autellix_server.gateway.telemetry.scrape import MetricsEndpoint, ScrapeTarget
from autellix_server.gateway.telemetry.timeline import TimelineApi

_IDLE_LIMIT_S = web.AppKey("idle_limit_s", float)
_DRAIN_S = 2.0
"""What calls in flight get to finish when the gateway stops; then they are cancelled."""


@dataclass(frozen=True, slots=True)
class Apps:
    """The applications of one gateway.

    Attributes:
        main: what clients use; started first and stopped last, since it holds what both need.
        admin: what operators use, `None` where `main` has that as well.
    """

    main: web.Application
    admin: web.Application | None


def make_apps(gateway: Gateway) -> Apps:
    """Return the applications; `Apps.main` keeps the gateway alive."""
    settings, fleet = gateway.settings, gateway.fleet
    view = FleetView(fleet, gateway.ledger.table)
    metrics = MetricsEndpoint(gateway.metrics, gateway.sample, lambda: _targets(gateway))
    proxy = Proxy(gateway.dispatcher)

    async def models(request: web.Request) -> web.StreamResponse:
        if not fleet.mixed:
            return await proxy.handle(request)
        gateway.tenants.who(request.headers)
        return await view.models()

    for_clients = (
        web.get("/v1/models", models),
        web.route(hdrs.METH_ANY, "/v1/{path:.*}", proxy.handle),
    )
    for_operators = (
        Endpoint(hdrs.METH_GET, "/metrics", metrics.handle, str, media="text/plain"),
        *EnginesApi(fleet).endpoints(),
    )
    main, admin = bare_app(settings), None
    own = list(_own(gateway, for_operators=False))
    if settings.admin_port is not None:
        admin = bare_app(settings)
        admin.add_routes(OpenApi((*_own(gateway, for_operators=True), *for_operators), lambda: False).routes())
    elif is_loopback(settings.host) and not gateway.tenants.keyed:
        own.extend(for_operators)
    main.add_routes((*OpenApi(own, lambda: gateway.tenants.keyed).routes(), *for_clients))

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        async with gateway.lifetime():
            yield

    main.cleanup_ctx.extend((lifetime, proxy.lifetime, view.lifetime, metrics.lifetime))
    main.on_response_prepare.append(drop_added_headers)
    return Apps(main, admin)


def _own(gateway: Gateway, *, for_operators: bool) -> Iterator[Endpoint]:
    """Return the endpoints that both applications have, with a client's own programs or for operators all."""
    programs = ProgramsApi(gateway.dispatcher, for_operators=for_operators)
    timelines = TimelineApi(gateway.timelines, gateway.ledger.clock, programs.named)
    path = "/autellix/v1/programs/{id}/timeline"
    yield from StatusApi(gateway, for_operators=for_operators).endpoints()
    yield from programs.endpoints()
    yield Endpoint(hdrs.METH_GET, path, timelines.get, dict[str, Any], errors=(404,), keyed=not for_operators)


def _targets(gateway: Gateway) -> Iterator[ScrapeTarget]:
    for member in gateway.fleet:
        if (address := member.address) is not None:
            yield ScrapeTarget(member.name, address.url, address.key or None)


def bare_app(settings: ServeSettings) -> web.Application:
    """Return an application without routes, which checks who asks."""
    hosts = HostGuard((settings.host, settings.admin_host, *settings.allowed_hosts))
    checks = _checks(hosts, OriginGuard(settings.allowed_origins))
    app = web.Application(middlewares=[checks], client_max_size=settings.max_body_bytes)
    app[_IDLE_LIMIT_S] = settings.idle_limit_s
    return app


def make_runner(app: web.Application) -> web.AppRunner:
    """Return what runs one of the applications of `make_apps` on a socket."""
    return Runner(
        app,
        app[_IDLE_LIMIT_S],
        handler_cancellation=True,  # A client that leaves cancels its call, which the engine then aborts.
        auto_decompress=False,  # A compressed request body goes to the engine as it came.
        access_log=None,
        shutdown_timeout=_DRAIN_S,
    )


def _checks(hosts: HostGuard, origins: OriginGuard) -> Middleware:
    """Return the middleware that every request passes: who may ask, and refusals as JSON."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = _refusal(request, hosts, origins)
        if refusal is not None:
            return refusal
        try:
            return await handler(request)
        except Refused as refused:
            return refused_reply(refused)
        except StalledBody:
            return error_reply(408, "the body of the request stopped coming", "request_timeout")

    return check


def _refusal(request: web.Request, hosts: HostGuard, origins: OriginGuard) -> web.Response | None:
    if sum(len(name) + len(value) for name, value in request.raw_headers) > MAX_HEAD_BYTES:
        return error_reply(431, f"the headers are more than {MAX_HEAD_BYTES} bytes", "headers_too_large")
    host = request.headers.get(hdrs.HOST, "")
    if not hosts.allows(host):
        message = f"requests to {host!a} are refused; start with AUTELLIX_ALLOWED_HOSTS to answer under that name"
        return error_reply(403, message, "host_refused")
    # Browsers can reach loopback, and the engine behind us lets every page read its answers.
    origin = request.headers.get(hdrs.ORIGIN)
    if not origins.allows(origin, host):
        message = f"web pages of {origin!a} are refused; start with AUTELLIX_ALLOWED_ORIGINS to let them in"
        return error_reply(403, message, "origin_refused")
    if request.path.startswith("/v1/") or request.match_info.http_exception is not None:
        return None
    if request.method == hdrs.METH_POST and request.content_type != "application/json":
        return error_reply(415, "the body must be application/json", "json_required")
    return None
