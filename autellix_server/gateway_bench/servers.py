"""The processes of a comparison: started, waited for, weighed, and gone at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from autellix_server.engine.guardian import descendants
from autellix_server.engine.process import EngineProcess
from autellix_server.engine_bench.any_server import ServerLaunch
from autellix_server.engine_bench.usage import cores_s, cores_s_of, memory_of
from autellix_server.errors import EngineFailure

START_LIMIT_S = 120.0

_GRACE_S = 10.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers.

    Attributes:
        url: where.
        pid: its process; those below it count for it too.
    """

    url: str
    pid: int

    def cpu_s(self) -> float:
        """Return for how many seconds cores have worked for it; only differences mean anything."""
        return cores_s_of(self._pids())

    def rss_bytes(self) -> int:
        """Return its resident memory; pages that several of its processes have count for each."""
        return memory_of(self._pids()).rss_bytes

    def _pids(self) -> set[int]:
        return {self.pid, *descendants(self.pid)}


@dataclass(frozen=True, slots=True)
class Stage:
    """Who works while an arm is measured.

    Attributes:
        engine: what answers in the end.
        arm: the gateway in front of it; `None`: there is none.
    """

    engine: Server
    arm: Server | None

    @property
    def url(self) -> str:
        """Where the load goes."""
        return (self.arm or self.engine).url

    def look(self) -> Spent:
        """Return the time that cores have worked so far."""
        arm_s = 0.0 if self.arm is None else self.arm.cpu_s()
        own_s, engine_s = time.process_time(), self.engine.cpu_s()
        return Spent(time.monotonic(), arm_s, engine_s, own_s, cores_s() - arm_s - engine_s - own_s)


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds, since whenever.

    Attributes:
        wall_s: that have passed.
        arm_s: that cores worked for the gateway.
        engine_s: for the engine.
        client_s: for this process.
        others_s: for anything else.
    """

    wall_s: float
    arm_s: float
    engine_s: float
    client_s: float
    others_s: float

    def since(self, before: Spent) -> Spent:
        """Return what came on since an earlier look."""
        return Spent(
            self.wall_s - before.wall_s,
            self.arm_s - before.arm_s,
            self.engine_s - before.engine_s,
            self.client_s - before.client_s,
            self.others_s - before.others_s,
        )


@asynccontextmanager
async def running(
    launch: ServerLaunch, log_path: Path, complaint: Callable[[str], Awaitable[str]]
) -> AsyncIterator[Server]:
    """Run a server for as long as the context lasts.

    Args:
        launch: what to run.
        log_path: file for its output.
        complaint: asks the server at a URL and returns what is wrong with its answer; it is ready when that is nothing.

    Raises:
        EngineFailure: it does not start, or does not answer well.
    """
    process = await EngineProcess.start(launch, log_path, _GRACE_S)
    try:
        await _until_ready(process, launch.name, complaint)
        process.forget_config()
        yield Server(process.url, process.pid)
    finally:
        await process.stop(_GRACE_S)


async def _until_ready(process: EngineProcess, name: str, complaint: Callable[[str], Awaitable[str]]) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while wrong := await complaint(process.url):
        process.log.read()
        last_lines = "".join(f"\n  {line}" for line in process.log.tail())
        where = f"the last lines of {process.log.path}:{last_lines}"
        if process.exit_status is not None:
            raise EngineFailure(f"{name} exited with status {process.exit_status} before it answered; {where}")
        if time.monotonic() > deadline_s:
            raise EngineFailure(f"{name} does not answer well after {START_LIMIT_S:g} s: {wrong}; {where}")
        await asyncio.sleep(_POLL_S)
