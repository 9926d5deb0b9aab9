"""The engines API, for operators: what the engines are doing, and taking one out of service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiohttp import hdrs, web
from pydantic import BaseModel, Field

from autellix_server.engine.limits import EngineLimits
from autellix_server.engine.supervisor import EngineState
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.member import Member
from autellix_server.gateway.openapi import Endpoint
from autellix_server.gateway.replies import model_reply


class EngineRow(BaseModel):
    """One engine. `limits` and `bounds` are null until it is ready, `pid` where nobody here started it."""

    state: EngineState
    detail: str
    pid: int | None
    restarts: int = Field(ge=0)
    models: tuple[str, ...]
    limits: EngineLimits | None
    bounds: dict[str, Any] | None
    calls: int = Field(ge=0)
    draining: bool


class EngineRows(BaseModel):
    """Reply to ``GET /autellix/v1/engines``: the engines by name."""

    engines: dict[str, EngineRow]


class EnginesApi:
    """Handlers of the engines API.

    Args:
        fleet: the engines.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> Iterator[Endpoint]:
        """Return its endpoints."""
        yield Endpoint(hdrs.METH_GET, "/autellix/v1/engines", self.list, EngineRows)
        for verb in (self.drain, self.restore):
            path = f"/autellix/v1/engines/{{name}}/{verb.__name__}"
            yield Endpoint(hdrs.METH_POST, path, verb, EngineRow, errors=(404,))

    async def list(self, request: web.Request) -> web.Response:
        """List the engines."""
        return model_reply(EngineRows(engines=shown_fleet(self._fleet)))

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
        return model_reply(_shown(member))


def shown_fleet(fleet: Fleet) -> dict[str, EngineRow]:
    """Return what people and tools are shown of engines, by name."""
    return {member.name: _shown(member) for member in fleet}


def _shown(member: Member) -> EngineRow:
    status = member.status
    return EngineRow(
        state=status.state,
        detail=status.detail,
        pid=status.pid,
        restarts=status.restarts,
        models=status.models,
        limits=status.limits,
        bounds=None if status.address is None or member.bounds is None else dict(member.bounds),
        calls=len(member.calls),
        draining=member.draining,
    )
