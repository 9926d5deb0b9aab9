"""How the gateway is: alive, and ready for calls."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Literal

from aiohttp import hdrs, web
from pydantic import BaseModel, Field

from autellix_server.gateway.calls import Counters
from autellix_server.gateway.engines import EngineRow, shown_fleet
from autellix_server.gateway.gateway import Gateway
from autellix_server.gateway.openapi import Endpoint
from autellix_server.gateway.recording import RecordingCounts
from autellix_server.gateway.refusal import unavailable
from autellix_server.gateway.replies import model_reply, refused_reply
from autellix_server.gateway.state.state import StoreHealth


class Health(BaseModel):
    """How the gateway and its engines are. `state` and `recording` are null where nothing is kept.

    Where there are keys, clients see that it is alive and no more; all of it is on the operators' port.
    """

    status: Literal["ok"] = "ok"
    version: str
    engines: dict[str, EngineRow] | None = None
    programs: int | None = Field(default=None, ge=0)
    counters: Counters | None = None
    state: StoreHealth | None = None
    recording: RecordingCounts | None = None


class Ready(BaseModel):
    """Calls can be served."""

    ready: Literal[True] = True


class StatusApi:
    """Handlers of ``/health`` and ``/ready``.

    Args:
        gateway: to tell about.
        for_operators: tell all of it, whether there are keys or not.
    """

    def __init__(self, gateway: Gateway, *, for_operators: bool) -> None:
        self._gateway = gateway
        self._for_operators = for_operators

    def endpoints(self) -> Iterator[Endpoint]:
        """Return its endpoints."""
        yield Endpoint(hdrs.METH_GET, "/health", self.health, Health)
        yield Endpoint(hdrs.METH_GET, "/ready", self.ready, Ready)

    async def health(self, request: web.Request) -> web.Response:
        """Say that the gateway is alive, and how its engines are."""
        gateway = self._gateway
        if gateway.tenants.keyed and not self._for_operators:
            return model_reply(Health(version=version("autellix")))
        recording, state = gateway.ledger.recording, gateway.state
        return model_reply(
            Health(
                version=version("autellix"),
                engines=shown_fleet(gateway.fleet),
                programs=len(gateway.ledger.table),
                counters=gateway.ledger.counters,
                state=None if state is None else state.health,
                recording=None if recording is None else recording.counts,
            )
        )

    async def ready(self, request: web.Request) -> web.Response:
        """Answer 200 when calls can be served, else 503 with the reason."""
        fleet = self._gateway.fleet
        if fleet.serving(None, self._gateway.ledger.clock()):
            return model_reply(Ready())
        return refused_reply(unavailable(fleet.detail))
