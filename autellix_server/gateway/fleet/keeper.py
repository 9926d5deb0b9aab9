"""Keeps the members of a fleet: starts and restarts local engines, watches attached ones, follows a file of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Never, Protocol

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.supervisor import EngineStatus
from autellix_server.errors import EngineFailure
from autellix_server.gateway.fleet.attachment import Attachment
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.line import Line
from autellix_server.gateway.fleet.member import Engine, Member
from autellix_server.gateway.fleet.specs import EngineSpec, check_distinct, read_specs

_log = logging.getLogger(__name__)

_LOOK_PERIOD_S = 1.0

Change = Callable[[str, EngineStatus], None]


class KeptEngine(Engine, Protocol):
    """An engine that has a life of its own: `engine.supervisor.Supervisor` and `Attachment`."""

    async def run(self) -> None:
        """Keep the engine until cancelled."""


class Keeper:
    """Runs the engines of a fleet. Run it as a task; cancel the task to stop them.

    Args:
        fleet: whose members it adds and removes.
        started: engines that are started here.
        specs: engines that are attached for good.
        file: of further engines, read again whenever it changes; `None`: there is none.
        environ: where the keys of attached engines are.
        make_line: returns the line in front of an attached engine that is not ours; `None`: calls go in at once.
        on_change: called with an engine's name at every change of its status.

    Raises:
        ConfigurationError: a key is missing, a name or URL is there twice, or the file cannot be read.
    """

    def __init__(
        self,
        fleet: Fleet,
        started: Sequence[KeptEngine],
        specs: Sequence[EngineSpec] = (),
        *,
        file: Path | None = None,
        environ: Mapping[str, str],
        make_line: Callable[[EngineSpec], Line | None] = lambda spec: None,
        on_change: Change = lambda name, status: None,
    ) -> None:
        self._fleet = fleet
        self._file = file
        self._environ = environ
        self._make_line = make_line
        self._on_change = on_change
        self._version: tuple[int, ...] | None = None
        self._complaint = ""
        self._wanted: Mapping[str, EngineSpec] = {}
        """What the file says, as it was when it was last right."""
        self._fixed = tuple(specs)
        self._taken = frozenset(engine.name for engine in started)
        check_distinct(self._fixed, self._taken)
        attached = list(map(self._attachment, self._fixed))
        self._engines = [*started, *attached]
        self._followed: dict[str, Attachment] = {}
        """Engines of the file that are in the fleet."""
        self._leaving: set[str] = set()
        """Those of them that the file does not name any more, or describes otherwise."""
        self._lives: dict[Attachment, asyncio.Task[None]] = {}
        for engine in started:
            fleet.add(Member(engine))
        for attachment in attached:
            fleet.add(self._member(attachment))
        if file is not None:
            self._read(file)
            self._follow()

    async def run(self) -> None:
        """Keep the engines until cancelled; a local one that gave up stays in the fleet as failed, for people to see.

        Raises:
            EngineFailure: all local engines gave up, and none is attached.
        """
        lives: list[asyncio.Task[Any]] = [asyncio.create_task(_life(engine)) for engine in self._engines]
        if self._file is not None:
            lives.append(asyncio.create_task(self._watch(self._file)))
        try:
            ended, _ = await asyncio.wait(lives, return_when=asyncio.FIRST_EXCEPTION)
            failures = [life.result() for life in lives if life in ended]
            raise failures[0]
        finally:
            lives.extend(self._lives.values())
            for life in lives:
                life.cancel()
            await asyncio.gather(*lives, return_exceptions=True)

    async def _watch(self, file: Path) -> Never:
        """Follow the file for ever; one that is wrong leaves the fleet as it is."""
        while True:
            self._start()
            await asyncio.sleep(_LOOK_PERIOD_S)
            try:
                self._read(file)
            except ConfigurationError as error:
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    _log.warning("the engines stay as they are: %s", error)
            else:
                self._complaint = ""
            self._follow()

    def _read(self, file: Path) -> None:
        version = _version(file)
        if version is None or version != self._version:
            self._version = version
            specs = read_specs(file)
            check_distinct((*self._fixed, *specs), self._taken)
            for spec in specs:
                spec.credentials(self._environ)
            self._wanted = {spec.label: spec for spec in specs}

    def _follow(self) -> None:
        """Bring the fleet nearer to what the file says; called until it is there.

        An engine that the file does not name any more, or describes otherwise, gets no new calls, and leaves when it
        has none; what the file says of it then joins. One that is named again before it has left stays.
        """
        for name, attachment in self._followed.items():
            member = self._fleet.get(name)
            if member is None:
                continue
            if self._wanted.get(name) != attachment.spec:
                self._leaving.add(name)
                member.draining = True
                if not member.calls:
                    self._fleet.remove(name)
            elif name in self._leaving:
                member.draining = False
                self._leaving.remove(name)
        self._followed = {name: one for name, one in self._followed.items() if self._fleet.get(name) is not None}
        self._leaving &= self._followed.keys()
        for name, spec in self._wanted.items():
            if name not in self._followed:
                self._followed[name] = self._attachment(spec)
                self._fleet.add(self._member(self._followed[name]))

    def _start(self) -> None:
        """Have every attachment of the file watched, and no other."""
        for attachment in [one for one in self._lives if self._followed.get(one.name) is not one]:
            self._lives.pop(attachment).cancel()
        for life in self._lives.values():
            if life.done():
                life.result()  # Its watcher has failed, which leaves nobody to say whether the engine is there.
        for attachment in self._followed.values():
            if attachment not in self._lives:
                self._lives[attachment] = asyncio.create_task(attachment.run())

    def _member(self, attachment: Attachment) -> Member:
        spec = attachment.spec
        return Member(attachment, self._make_line(spec) if spec.secret_env is None else None)

    def _attachment(self, spec: EngineSpec) -> Attachment:
        return Attachment(spec, *spec.credentials(self._environ), on_change=partial(self._on_change, spec.label))


async def _life(engine: KeptEngine) -> EngineFailure:
    """Keep an engine until it gives up, and return why."""
    try:
        await engine.run()
    except EngineFailure as failure:
        return failure
    raise AssertionError("an engine is kept until it gives up, or the task is cancelled")


def _version(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
