"""Gateway and engines as one thing that is started, waited for and stopped together."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.process import Launch
from autellix_server.engine.supervisor import EngineState, EngineStatus, Supervisor, Timing
from autellix_server.gateway.app import make_ledger, make_runner
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.keeper import Keeper
from autellix_server.gateway.fleet.prober import Prober
from autellix_server.gateway.fleet.specs import spec_of_url
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
    """An asynchronous context: inside it the gateway answers and the engines start, run and are restarted.

    ::

        async with Backend(settings, [launch], logs) as backend:
            await backend.ready()
            ...                         # backend.url

    Args:
        settings: of the gateway.
        launches: the engines to start, see `engine.command.SglangLaunch`; their names are unique.
        logs: returns the file for an engine's output, by its name.
        bound: the gateway's port as taken by `bind`; `None` takes it on entry.
        timing: how patient to be with the engines.
        on_change: called on the event loop with an engine's name at every change of its status.

    Raises:
        ConfigurationError: engines to attach cannot be, see `Keeper`; on entry, see `bind`.
    """

    def __init__(
        self,
        settings: ServeSettings,
        launches: Sequence[Launch],
        logs: Callable[[str], Path],
        *,
        bound: socket.socket | None = None,
        timing: Timing | None = None,
        on_change: Callable[[str, EngineStatus], None] = lambda name, status: None,
    ) -> None:
        self._settings = settings
        self._bound = bound
        self._on_change = on_change
        self._became_ready = asyncio.Event()
        self.fleet = Fleet()
        self._keeper = Keeper(
            self.fleet,
            [
                Supervisor(launch, logs(launch.name), timing=timing, on_change=partial(self._changed, launch.name))
                for launch in launches
            ],
            [spec_of_url(url) for url in settings.engine_url],
            file=settings.engines_file,
            environ=os.environ,
            on_change=self._changed,
        )
        self._prober = Prober(self.fleet, settings.hang_limit_s)
        self.ledger = make_ledger(settings)
        self.url = ""

    async def __aenter__(self) -> Self:
        bound = self._bound or bind(self._settings)
        self._runner = make_runner(self._settings, self.fleet, self.ledger)
        await self._runner.setup()
        await web.SockSite(self._runner, bound, backlog=BACKLOG).start()
        self.url = base_url(*bound.getsockname()[:2])
        self._life = asyncio.create_task(self._keeper.run())
        self._probing = asyncio.create_task(self._prober.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The gateway first: calls in flight are cancelled at engines that are still there to notice.
        await self._runner.cleanup()
        for task in (self._probing, self._life):
            task.cancel()
        await asyncio.gather(self._probing, self._life, return_exceptions=True)

    async def ready(self) -> None:
        """Wait until an engine is ready for the first time.

        Raises:
            EngineFailure: all of them gave up.
        """
        became_ready = asyncio.create_task(self._became_ready.wait())
        try:
            await asyncio.wait({became_ready, self._life}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            became_ready.cancel()
        if self._life.done():
            self._life.result()

    async def failed(self) -> None:
        """Wait for as long as some engine is kept alive.

        Raises:
            EngineFailure: the last one gave up.
        """
        await asyncio.shield(self._life)

    def _changed(self, name: str, status: EngineStatus) -> None:
        if status.state is EngineState.READY:
            self._became_ready.set()
        self._on_change(name, status)
