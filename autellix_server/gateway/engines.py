"""The engines API, for operators: what the engines are doing, and taking one out of service."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.member import Member


class EnginesApi:
    """Handlers of the engines API.

    Args:
        fleet: the engines.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def list(self, request: web.Request) -> web.Response:
        """List the engines."""
        return web.json_response({"engines": shown_fleet(self._fleet)})

    async def drain(self, request: web.Request) -> web.Response:
        """Give an engine no new calls; those in it end in their own time."""
        return self._set_draining(request, draining=True)

    async def restore(self, request: web.Request) -> web.Response:
        """Give a drained engine calls again."""
        return self._set_draining(request, draining=False)

    def _set_draining(self, request: web.Request, *, draining: bool) -> web.Response:
        member = self._fleet.get(request.match_info["name"])
        if member is None:
            names = ", ".join(member.name for member in self._fleet)
            raise web.HTTPNotFound(text=f"there is no such engine; there are: {names}")
        member.draining = draining
        return web.json_response(_shown(member))


def shown_fleet(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """Return what people and tools are shown of engines, by name."""
    return {member.name: _shown(member) for member in fleet}


def _shown(member: Member) -> dict[str, Any]:
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
