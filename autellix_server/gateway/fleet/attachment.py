"""An engine that somebody else runs, attached by URL: whether it is there, and what it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import aiohttp
from aiohttp import hdrs

from autellix_server.engine.limits import EngineLimits
from autellix_server.engine.supervisor import EngineAddress, EngineState, EngineStatus
from autellix_server.errors import EngineFailure
from autellix_server.gateway.fleet.answers import ask, read_answer, read_json
from autellix_server.gateway.fleet.kinds import PROBE_PATHS, EngineKind, Shown, Traits, recognise
from autellix_server.gateway.fleet.loads import LOAD_PATHS, ShownLoad, read_load
from autellix_server.gateway.fleet.specs import EngineSpec

_OK = 200
_LOOK_PERIOD_S = 1.0
_BACKOFF_LIMIT_S = 15.0
_ANSWER_LIMIT_S = 5.0


class Attachment:
    """Watches one attached engine. Run it as a task; cancel the task to let go of the engine, which goes on.

    Args:
        spec: what was said of the engine.
        key: its API key; empty: it wants none.
        secret: that it shares; `None`: it gets no stamps.
        on_change: called on the event loop at every change of `status`.
    """

    def __init__(
        self,
        spec: EngineSpec,
        key: str,
        secret: bytes | None,
        *,
        on_change: Callable[[EngineStatus], None] = lambda status: None,
    ) -> None:
        self.spec = spec
        self._address = EngineAddress(spec.label, spec.url, key, secret)
        self._on_change = on_change
        self._reached = 0
        self._server = ""
        self.traits = Traits(EngineKind.OTHER, ())
        """What it is, as far as it was recognised."""
        self.shown: ShownLoad | None = None
        """Load that it last showed."""
        self._status = EngineStatus(EngineState.STARTING, f"asking {spec.url}")

    @property
    def name(self) -> str:
        """Name of the engine."""
        return self._address.name

    @property
    def status(self) -> EngineStatus:
        """What is known about the engine now."""
        return self._status

    def condemn(self, reason: str) -> None:
        """Take the engine for gone until it answers again; it cannot be started anew from here."""
        self._set(EngineStatus(EngineState.UNREACHABLE, reason, restarts=self._restarts))

    async def run(self) -> None:
        """Ask the engine again and again, more rarely the longer it does not answer, until cancelled."""
        wait_s = _LOOK_PERIOD_S
        timeout = aiohttp.ClientTimeout(total=_ANSWER_LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                try:
                    self._set(await self._look(session))
                    wait_s = _LOOK_PERIOD_S
                except (aiohttp.ClientError, TimeoutError, ValueError, EngineFailure) as error:
                    # Of values: a name that no host can have. Of one that is silent the prober decides: it may be busy.
                    if not isinstance(error, TimeoutError) or self._status.state is not EngineState.READY:
                        reason = str(error) or "it does not answer"
                        self._set(EngineStatus(EngineState.UNREACHABLE, reason, restarts=self._restarts))
                        wait_s = min(2 * wait_s, _BACKOFF_LIMIT_S)
                await asyncio.sleep(wait_s)

    @property
    def _restarts(self) -> int:
        """Times it came back."""
        return max(0, self._reached - 1)

    async def _look(self, session: aiohttp.ClientSession) -> EngineStatus:
        """Return the status of an engine that answers.

        Raises:
            EngineFailure: what answers is no engine that can be used.
        """
        if self._status.state is not EngineState.READY:
            self.traits = await self._recognised(session)
            self._reached += 1
        elif (traits := recognise(Shown(models=await self._json(session, "/v1/models")))) is not None:
            self.traits = replace(self.traits, models=traits.models)
        self.shown = await self._load(session)
        return EngineStatus(
            EngineState.READY,
            f"ready ({self.traits.kind} {self.traits.version}".rstrip() + ")",
            self._address,
            restarts=self._restarts,
            limits=EngineLimits(slots=self.traits.slots),
            models=self.traits.models,
        )

    async def _load(self, session: aiohttp.ClientSession) -> ShownLoad | None:
        """Return the load that the engine shows; one that does not is no worse an engine."""
        path = LOAD_PATHS.get(self.traits.kind)
        if path is None:
            return None
        try:
            async with ask(session, self._address, path) as reply:
                return read_load(self.traits.kind, await read_answer(reply)) if reply.status == _OK else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def _recognised(self, session: aiohttp.ClientSession) -> Traits:
        """Return what the engine is.

        Raises:
            EngineFailure: it lists no models, or is to have our plugin and has not.
        """
        models = await self._json(session, "/v1/models")
        found: dict[str, object] = {}
        for field, paths in PROBE_PATHS.items():
            if field == "models":
                continue
            for path in paths:
                try:
                    found[field] = await self._json(session, path)
                    break
                except EngineFailure:
                    found[field] = None
        traits = recognise(Shown(models=models, server=self._server, **found))
        if traits is None:
            raise EngineFailure(f"{self.spec.url} lists no models under /v1/models: is it an OpenAI server?")
        if self._address.secret is not None and traits.kind is not EngineKind.OURS:
            raise EngineFailure("a secret is set for it, but our plugin is not at work there")
        return traits

    async def _json(self, session: aiohttp.ClientSession, path: str) -> object:
        async with ask(session, self._address, path) as reply:
            if reply.status in {401, 403}:
                raise EngineFailure(f"it refuses the API key (key_env): {path} answers {reply.status}")
            if reply.status != _OK:
                elsewhere = reply.headers.get(hdrs.LOCATION)
                hint = "" if elsewhere is None else f", a redirect to {elsewhere}: give the URL of the engine itself"
                raise EngineFailure(f"{path} answers {reply.status}{hint}")
            self._server = reply.headers.get(hdrs.SERVER, "")
            try:
                return await read_json(reply)
            except ValueError:
                return None

    def _set(self, status: EngineStatus) -> None:
        if status != self._status:
            self._status = status
            self._on_change(status)
