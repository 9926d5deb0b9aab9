"""Gateway and engines as one thing that is started, waited for and stopped together."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from autellix_server.engine.process import Launch
from autellix_server.engine.supervisor import EngineState, EngineStatus, Supervisor, Timing
from autellix_server.gateway.app import make_apps, make_runner
from autellix_server.gateway.fleet.keeper import Keeper
from autellix_server.gateway.fleet.prober import Prober
from autellix_server.gateway.fleet.specs import spec_of_url
from autellix_server.gateway.gateway import Gateway
from autellix_server.gateway.settings import ServeSettings
from autellix_server.gateway.sockets import bind, tls_context
from autellix_server.gateway.workers.crew import Crew
from autellix_server.listening import BACKLOG, base_url


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
        bound: the gateway's port as taken by `sockets.bind`; `None` takes it on entry.
        state: file that what the gateway knows survives a restart in; `None`: it does not.
        timing: how patient to be with the engines.
        on_change: called on the event loop with an engine's name at every change of its status.

    Raises:
        ConfigurationError: of engines to attach, see `Keeper`, or of TLS, see `sockets`; on entry, of the ports.
    """

    def __init__(
        self,
        settings: ServeSettings,
        launches: Sequence[Launch],
        logs: Callable[[str], Path],
        *,
        bound: socket.socket | None = None,
        state: Path | None = None,
        timing: Timing | None = None,
        on_change: Callable[[str, EngineStatus], None] = lambda name, status: None,
    ) -> None:
        self._settings = settings
        self._bound = bound
        self._on_change = on_change
        self._became_ready = asyncio.Event()
        self.gateway = Gateway(settings, state=state, environ=os.environ)
        self.fleet = self.gateway.fleet
        self._keeper = Keeper(
            self.fleet,
            [
                Supervisor(launch, logs(launch.name), timing=timing, on_change=partial(self._changed, launch.name))
                for launch in launches
            ],
            [spec_of_url(url) for url in settings.engine_url],
            file=settings.engines_file,
            environ=os.environ,
            make_line=self.gateway.make_line,
            on_change=self._changed,
        )
        self._prober = Prober(self.fleet, settings.hang_limit_s, self.gateway.ledger.clock)
        self._tls = tls_context(settings)
        self._workers: Sequence[asyncio.Task[None]] = ()
        self._exit = AsyncExitStack()
        self.url = self.admin_url = ""

    async def __aenter__(self) -> Self:
        settings, apps = self._settings, make_apps(self.gateway)
        try:
            bound = self._bound or bind(settings.host, settings.port)
            if settings.workers:
                await self._serve_by_workers(apps.main, bound)
            else:
                await self._serve(apps.main, web.SockSite, bound, ssl_context=self._tls)
            self.url = self._url(bound)
            if apps.admin is not None and settings.admin_port is not None:
                bound = bind(settings.admin_host, settings.admin_port, "--admin-port")
                await self._serve(apps.admin, web.SockSite, bound, ssl_context=self._tls)
                self.admin_url = self._url(bound)
        except BaseException:
            await self._exit.aclose()
            raise
        self._life = asyncio.create_task(self._keeper.run())
        self._probing = asyncio.create_task(self._prober.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The gateway first: calls in flight are cancelled at engines that are still there to notice.
        try:
            await self._exit.aclose()
        finally:
            for task in (self._probing, self._life):
                task.cancel()
            await asyncio.gather(self._probing, self._life, return_exceptions=True)

    async def _serve(self, app: web.Application, site: Callable[..., web.BaseSite], *where: Any, **how: Any) -> None:
        """Serve an application until the exit."""
        runner = make_runner(app)
        self._exit.push_async_callback(runner.cleanup)
        await runner.setup()
        await site(runner, *where, backlog=BACKLOG, **how).start()

    async def _serve_by_workers(self, app: web.Application, bound: socket.socket) -> None:
        """Have workers accept clients, and serve them what is not theirs, until the exit."""
        path = str(Path(self._exit.enter_context(TemporaryDirectory(prefix="autellix-"))) / "api")
        await self._serve(app, web.UnixSite, path)
        crew = await self._exit.enter_async_context(Crew(self._settings, self.gateway.dispatcher, bound, path))
        self._workers = crew.lives

    def _url(self, bound: socket.socket) -> str:
        return base_url(*bound.getsockname()[:2], secure=self._tls is not None)

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
        """Wait for as long as some engine is kept alive, and all that a gateway does beside calls goes on.

        Raises:
            EngineFailure: the last engine gave up.
        """
        ended, _ = await asyncio.wait(
            {self._life, self._probing, *self._workers, *self.gateway.upkeep}, return_when=asyncio.FIRST_COMPLETED
        )
        for task in ended:
            task.result()

    def _changed(self, name: str, status: EngineStatus) -> None:
        if status.state is EngineState.READY:
            self._became_ready.set()
        self.gateway.engine_changed(name, status)
        self._on_change(name, status)
