"""Keeps one engine alive: starts it, waits until it is ready and ours, restarts it when it dies, stops it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp

from autellix_server.engine.command import POLICY_OFF
from autellix_server.engine.limits import EngineLimits
from autellix_server.engine.marker import marker_complaint
from autellix_server.engine.process import EngineProcess, Launch
from autellix_server.errors import EngineFailure

_USAGE_ERROR = 2
"""Exit status of a program whose command line is wrong; trying again would not help."""


class EngineState(StrEnum):
    """Where an engine is in its life."""

    STARTING = "starting"
    READY = "ready"
    UNREACHABLE = "unreachable"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where and how an engine is reached.

    Attributes:
        name: name in bills.
        url: base URL, without a path.
        key: its API key; empty: it wants none.
        secret: signs stamps; `None` when the engine is not ours (no plugin): it gets nothing of ours, and whatever
            looks like a bill of ours from it is not believed.
    """

    name: str
    url: str
    key: str
    secret: bytes | None


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What is known about an engine.

    Attributes:
        state: where it is in its life.
        detail: the same in a few words, for people.
        address: how to reach it; `None` unless it is ready.
        pid: its process, `None` when there is none.
        restarts: times it was started again.
        limits: what fits into it; `None` unless it is ready.
        models: names of the models it serves; empty: it has not said.
    """

    state: EngineState
    detail: str
    address: EngineAddress | None = None
    pid: int | None = None
    restarts: int = 0
    limits: EngineLimits | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient the supervisor is. All in seconds but `attempts`.

    Attributes:
        poll_s: between two looks at an engine that starts.
        start_limit_s: an engine that is not ready by then has failed; large models are downloaded in this time.
        grace_s: between SIGTERM and SIGKILL.
        backoff_s: before the first restart; doubles with each failure in a row.
        backoff_limit_s: longest wait before a restart.
        stable_s: an engine that was ready for this long has worked: the next failure counts as the first.
        attempts: failures in a row, before the engine was ever ready, after which the supervisor gives up.
    """

    poll_s: float = 0.25
    start_limit_s: float = 1800.0
    grace_s: float = 10.0
    backoff_s: float = 0.5
    backoff_limit_s: float = 30.0
    stable_s: float = 60.0
    attempts: int = 2


class Supervisor:
    """Owns one engine. Run it as a task; cancel the task to stop the engine.

    Args:
        launch: what to start.
        log_path: file for the engine's output.
        timing: how patient to be.
        on_change: called on the event loop at every change of `status`.
    """

    def __init__(
        self,
        launch: Launch,
        log_path: Path,
        *,
        timing: Timing | None = None,
        on_change: Callable[[EngineStatus], None] = lambda status: None,
    ) -> None:
        self.log_path = log_path
        self._launch = launch
        self._timing = timing or Timing()
        self._on_change = on_change
        self._restarts = 0
        self._condemned: asyncio.Future[str] | None = None
        self._status = EngineStatus(EngineState.STARTING, "not started yet")

    @property
    def name(self) -> str:
        """Name of the engine."""
        return self._launch.name

    @property
    def status(self) -> EngineStatus:
        """What is known about the engine now."""
        return self._status

    def condemn(self, reason: str) -> None:
        """Have the engine stopped and started again; of no effect unless it is ready."""
        if self._condemned is not None and not self._condemned.done():
            self._condemned.set_result(reason)

    async def run(self) -> None:
        """Keep the engine alive until cancelled; it is stopped, with all its processes, before this returns.

        Raises:
            EngineFailure: the engine never became ready: it refused its configuration, is not ours, or failed again
                and again. One that was ready once is started again for ever: what keeps it from that may pass.
        """
        ever_ready, failures = False, 0
        try:
            while True:
                try:
                    ready_s, failure = await self._one_life()
                except OSError as error:  # of files of ours, when the machine is at a limit
                    ready_s, failure = None, EngineFailure(f"the engine cannot be watched: {error}")
                except EngineFailure as hopeless:
                    if not ever_ready:
                        raise
                    ready_s, failure = None, hopeless
                ever_ready = ever_ready or ready_s is not None
                failures = 1 if ready_s is not None and ready_s >= self._timing.stable_s else failures + 1
                if not ever_ready and failures >= self._timing.attempts:
                    raise failure
                await self._back_off(failures, failure)
        except EngineFailure as failure:
            self._set(EngineState.FAILED, str(failure))
            raise
        finally:
            if self._status.state is not EngineState.FAILED:
                self._set(EngineState.STOPPED, "stopped")

    async def _one_life(self) -> tuple[float | None, EngineFailure]:
        """Start the engine and stay until it dies; return how long it was ready, `None` if never, and what failed."""
        engine = await EngineProcess.start(self._launch, self.log_path, self._timing.grace_s)
        died = asyncio.create_task(engine.wait())
        try:
            self._set(EngineState.STARTING, "starting", pid=engine.pid)
            try:
                server_info = await self._until_ready(engine, died)
            except EngineFailure as failure:
                if engine.log.reason is not None or engine.exit_status in (None, _USAGE_ERROR):
                    raise
                return None, failure
            engine.forget_config()
            self._set(
                EngineState.READY,
                "ready",
                address=self._address(engine),
                pid=engine.pid,
                limits=EngineLimits.from_server_info(server_info),
                models=_models(server_info),
            )
            ready_at = asyncio.get_running_loop().time()
            end = await self._end(died)
            ready_s = asyncio.get_running_loop().time() - ready_at
            return ready_s, EngineFailure(f"the engine {end}; see {self.log_path}")
        finally:
            died.cancel()
            await engine.stop(self._timing.grace_s)

    async def _end(self, died: asyncio.Task[int]) -> str:
        """Wait until a ready engine dies or is condemned; return what it did."""
        self._condemned = condemned = asyncio.get_running_loop().create_future()
        ends: set[asyncio.Future[Any]] = {died, condemned}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return f"exited with status {died.result()}" if died.done() else condemned.result()
        finally:
            condemned.cancel()

    async def _until_ready(self, engine: EngineProcess, died: asyncio.Task[int]) -> dict[str, Any]:
        """Return the engine's ``/server_info`` as soon as it answers and is ours.

        Raises:
            EngineFailure: it exited, took too long, or is not ours. It has exited only in the first case.
        """
        deadline = asyncio.get_running_loop().time() + self._timing.start_limit_s
        async with aiohttp.ClientSession(
            engine.url, headers={"Authorization": f"Bearer {engine.key}"}, timeout=aiohttp.ClientTimeout(total=30)
        ) as session:
            answer = asyncio.create_task(_answers(session, self._timing.poll_s))
            try:
                while not answer.done():
                    await asyncio.wait({answer, died}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
                    engine.log.read()
                    if died.done():
                        raise self._start_failure(engine, f"exited with status {died.result()} before it was ready")
                    if asyncio.get_running_loop().time() > deadline:
                        raise self._start_failure(engine, f"was not ready after {self._timing.start_limit_s:g} s")
                    self._report_stage(engine)
                server_info = answer.result()
            finally:
                answer.cancel()
        complaint = marker_complaint(server_info, self._launch.policy)
        if complaint is not None and self._launch.policy != POLICY_OFF:
            raise EngineFailure(complaint)
        return server_info

    def _address(self, engine: EngineProcess) -> EngineAddress:
        secret = None if self._launch.policy == POLICY_OFF else self._launch.secret
        return EngineAddress(self._launch.name, engine.url, engine.key, secret)

    def _start_failure(self, engine: EngineProcess, what: str) -> EngineFailure:
        engine.log.read()
        if engine.log.reason is not None:
            return EngineFailure(f"the engine did not start: {engine.log.reason}")
        last_lines = "".join(f"\n  {line}" for line in engine.log.tail())
        return EngineFailure(f"the engine {what}; the last lines of {self.log_path}:{last_lines}")

    def _report_stage(self, engine: EngineProcess) -> None:
        stage = engine.log.stage
        if stage is not None and stage != self._status.detail:
            self._set(EngineState.STARTING, stage, pid=engine.pid)

    async def _back_off(self, failures: int, failure: EngineFailure) -> None:
        wait_s = min(self._timing.backoff_limit_s, self._timing.backoff_s * 2.0 ** min(failures - 1, 30))
        self._restarts += 1
        self._set(EngineState.RESTARTING, f"{failure}; restarting in {wait_s:g} s")
        await asyncio.sleep(wait_s)

    def _set(
        self,
        state: EngineState,
        detail: str,
        *,
        address: EngineAddress | None = None,
        pid: int | None = None,
        limits: EngineLimits | None = None,
        models: tuple[str, ...] = (),
    ) -> None:
        self._status = EngineStatus(state, detail, address, pid, self._restarts, limits, models)
        self._on_change(self._status)


def _models(server_info: dict[str, Any]) -> tuple[str, ...]:
    name = server_info.get("served_model_name")
    return (name,) if isinstance(name, str) else ()


async def _answers(session: aiohttp.ClientSession, poll_s: float) -> dict[str, Any]:
    """Wait until the engine is healthy, and return its ``/server_info``."""
    while True:
        try:
            async with session.get("/health") as health:
                healthy = health.status == 200
            if healthy:
                async with session.get("/server_info", raise_for_status=True) as info:
                    server_info: dict[str, Any] = await info.json()
                    return server_info
        except (aiohttp.ClientError, TimeoutError, ValueError):
            pass  # Not listening yet, or still too busy to answer: ask again until the start limit.
        await asyncio.sleep(poll_s)
