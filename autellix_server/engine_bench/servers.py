"""Running one arm: from its start, through its first answer, to when nothing of it is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from autellix_server.calibration.client import HttpClient
from autellix_server.calibration.probes import draw_tokens
from autellix_server.engine.command import POLICY_OFF
from autellix_server.engine.guardian import descendants
from autellix_server.engine.marker import marker_complaint
from autellix_server.engine.process import EngineProcess
from autellix_server.engine_bench.arms import Arm
from autellix_server.engine_bench.usage import Memory, cores_s, cores_s_of, memory_of
from autellix_server.errors import EngineFailure

START_LIMIT_S = 900.0
"""Whoever has not answered by then has failed."""

_GRACE_S = 10.0
_POLL_S = 0.1
_STILL_STARTING = 503
_FACTS = ("version", "attention_backend", "sampling_backend", "dtype", "max_running_requests", "chunked_prefill_size")


@dataclass(frozen=True, slots=True)
class RunningArm:
    """A server that has answered its first call.

    Attributes:
        client: of the server.
        start_s: seconds from the start of its process to that answer.
        facts: what it says of itself.
        process: the server.
    """

    client: HttpClient
    start_s: float
    facts: Mapping[str, Any]
    process: EngineProcess

    def memory(self) -> Memory:
        """Return the memory of all its processes."""
        return memory_of(self._pids())

    def others_s(self) -> float:
        """Return for how many seconds the cores have worked for neither it nor us; only differences mean anything."""
        return cores_s() - cores_s_of(self._pids()) - time.process_time()

    def _pids(self) -> set[int]:
        return {self.process.pid, *descendants(self.process.pid)}


@asynccontextmanager
async def running_arm(arm: Arm, log_path: Path, say: Callable[[str], None]) -> AsyncIterator[RunningArm]:
    """Run an arm for as long as the context lasts.

    Args:
        arm: what to run.
        log_path: file for its output.
        say: told what it is doing while it starts, where that is known.

    Raises:
        EngineFailure: it does not start, does not answer, or is not what it was started as.
    """
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    process = await EngineProcess.start(arm.launch, log_path, _GRACE_S)
    died = asyncio.create_task(process.wait())
    try:
        async with AsyncExitStack() as stack:
            answer = asyncio.create_task(_first_answer(process, stack))
            try:
                client = await _unless_it_dies(arm, process, answer, died, say)
            finally:
                answer.cancel()
            start_s = loop.time() - began_s
            process.forget_config()
            yield RunningArm(client, start_s, await _checked_facts(arm, client), process)
    finally:
        died.cancel()
        await process.stop(_GRACE_S)


async def _first_answer(process: EngineProcess, stack: AsyncExitStack) -> HttpClient:
    """Return a client of the server, once it listens, does not say that it is still starting, and answers a call."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        while await _status(session, f"{process.url}/health") in (None, _STILL_STARTING):
            await asyncio.sleep(_POLL_S)
    client = await stack.enter_async_context(HttpClient.connect(process.url, None, process.key, keep_alive=False))
    await client.complete(draw_tokens("first answer", 8), 1)
    return client


async def _status(session: aiohttp.ClientSession, url: str) -> int | None:
    """Return the status that a resource is answered with, `None` when nobody answers."""
    try:
        async with session.get(url) as reply:
            return reply.status
    except (aiohttp.ClientError, TimeoutError):
        return None


async def _unless_it_dies(
    arm: Arm,
    process: EngineProcess,
    answer: asyncio.Task[HttpClient],
    died: asyncio.Task[int],
    say: Callable[[str], None],
) -> HttpClient:
    deadline_s = asyncio.get_running_loop().time() + START_LIMIT_S
    stage = None
    while not answer.done():
        await asyncio.wait({answer, died}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        process.log.read()
        if died.done():
            raise _failure(arm, process, f"exited with status {died.result()} before it answered")
        if asyncio.get_running_loop().time() > deadline_s:
            raise _failure(arm, process, f"has not answered after {START_LIMIT_S:g} s")
        if process.log.stage not in (None, stage):
            stage = process.log.stage
            say(f"  {arm.name}: {stage}")
    try:
        return answer.result()
    except EngineFailure as failure:
        raise EngineFailure(f"{arm.name}: {failure} (log: {process.log.path})") from failure


def _failure(arm: Arm, process: EngineProcess, what: str) -> EngineFailure:
    if process.log.reason is not None:
        return EngineFailure(f"{arm.name} did not start: {process.log.reason}")
    last_lines = "".join(f"\n  {line}" for line in process.log.tail())
    return EngineFailure(f"{arm.name} {what}; the last lines of {process.log.path}:{last_lines}")


async def _checked_facts(arm: Arm, client: HttpClient) -> dict[str, Any]:
    """Return what an arm says of itself, when that is what it was started as.

    Raises:
        EngineFailure: it is something else.
    """
    model = Path(client.model).name  # llama.cpp lists its file with the folder
    if not arm.sglang:
        return {"model": model}
    info: Mapping[str, Any] = await client.get("/server_info")
    policy = arm.launch.policy
    if policy != POLICY_OFF and (complaint := marker_complaint(info, policy)) is not None:
        raise EngineFailure(f"{arm.name}: {complaint}")
    if arm.backend is not None and info.get("attention_backend") != arm.backend:
        raise EngineFailure(
            f"{arm.name} runs the attention backend {info.get('attention_backend')!r} instead of {arm.backend!r}; "
            "leave --attention-backend out of what follows --"
        )
    return {"model": model, "policy": policy, **{name: info[name] for name in _FACTS if name in info}}
