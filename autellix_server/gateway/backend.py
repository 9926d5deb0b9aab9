"""Gateway and engine as one thing that is started, waited for and stopped together."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.process import Launch
from autellix_server.engine.supervisor import EngineState, EngineStatus, Supervisor, Timing
from autellix_server.gateway.app import make_ledger, make_runner
from autellix_server.gateway.settings import ServeSettings
from autellix_server.listening import BACKLOG, base_url


def bind(settings: ServeSettings) -> socket.socket:
    """Take the gateway's port and listen on it, so that a port in use is known before anything is started.

    Connections made before the gateway serves wait in the backlog.

    Raises:
        ConfigurationError: the port is in use or the address is not this machine's; says what to do.
    """
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)  # two sockets that do not listen yet could share the port
        except OSError:
            bound.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {port} on {host} is in use; stop what uses it or choose another port with --port"
            ) from error
        raise ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return bound


class Backend:
    """An asynchronous context: inside it the gateway answers and the engine starts, runs and is restarted.

    ::

        async with Backend(settings, launch, log_path) as backend:
            await backend.ready()
            ...                         # backend.url

    Args:
        settings: of the gateway.
        launch: the engine to start, see `engine.command.SglangLaunch`.
        log_path: file for the engine's output.
        bound: the gateway's port as taken by `bind`; `None` takes it on entry.
        timing: how patient to be with the engine.
        on_change: called on the event loop at every change of the engine's status.

    Raises:
        ConfigurationError: on entry, see `bind`.
    """

    def __init__(
        self,
        settings: ServeSettings,
        launch: Launch,
        log_path: Path,
        *,
        bound: socket.socket | None = None,
        timing: Timing | None = None,
        on_change: Callable[[EngineStatus], None] = lambda status: None,
    ) -> None:
        self._settings = settings
        self._bound = bound
        self._on_change = on_change
        self._became_ready = asyncio.Event()
        self._supervisor = Supervisor(launch, log_path, timing=timing, on_change=self._changed)
        self.ledger = make_ledger(settings)
        self.url = ""

    @property
    def engine(self) -> EngineStatus:
        """What is known about the engine now."""
        return self._supervisor.status

    async def __aenter__(self) -> Self:
        bound = self._bound or bind(self._settings)
        self._runner = make_runner(self._settings, self._supervisor, self.ledger)
        await self._runner.setup()
        await web.SockSite(self._runner, bound, backlog=BACKLOG).start()
        self.url = base_url(*bound.getsockname()[:2])
        self._life = asyncio.create_task(self._supervisor.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The gateway first: calls in flight are cancelled at an engine that is still there to notice.
        await self._runner.cleanup()
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)

    async def ready(self) -> EngineStatus:
        """Wait until the engine is ready for the first time.

        Raises:
            EngineFailure: it gave up.
        """
        became_ready = asyncio.create_task(self._became_ready.wait())
        try:
            await asyncio.wait({became_ready, self._life}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            became_ready.cancel()
        if self._life.done():
            self._life.result()
        return self.engine

    async def failed(self) -> None:
        """Wait for as long as the engine is kept alive.

        Raises:
            EngineFailure: the supervisor gave up.
        """
        await asyncio.shield(self._life)

    def _changed(self, status: EngineStatus) -> None:
        if status.state is EngineState.READY:
            self._became_ready.set()
        self._on_change(status)
