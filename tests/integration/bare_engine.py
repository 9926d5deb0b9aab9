"""Running the real engine under strain, and without a gateway in front: so a test can ask it what it has counted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from autellix_server.engine.command import SglangLaunch
from autellix_server.engine.home import Home
from autellix_server.engine.model import BundledModel
from autellix_server.engine.supervisor import EngineState, EngineStatus, Supervisor, Timing
from tests.integration.server import START_LIMIT_S

LOOPS = {"overlap": {"AUTELLIX_CPU_OVERLAP": "on"}, "normal": dict[str, str]()}
"""The engine's event loops, and the variables it is told each by: a GPU runs the first, a CPU by itself the second."""

_STRAIN = {
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1",
    # The engine hopes that nearly every output ends early, and so runs out of memory.
    "SGLANG_INIT_NEW_TOKEN_RATIO": "0.1",
}


@contextmanager
def under_strain(**variables: str) -> Iterator[None]:
    """Engines that start in here promise more memory than there is, and check at every step that none is lost.

    Args:
        variables: further ones of their environment.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (_STRAIN | variables).items():
            patch.setenv(name, value)
        yield


def launch_of(engine_python: Path, *arguments: str, **settings: Any) -> SglangLaunch:
    """An engine whose programs sink a level every few steps, in float32, so that a batch's size flips no near-tie.

    Args:
        engine_python: interpreter of an engine environment for a CPU.
        arguments: further ones for SGLang.
        settings: further ones of `SglangLaunch`.
    """
    model = BundledModel(Home.from_environment()).path
    options = {"first_bound_s": 0.1, **settings}
    return SglangLaunch(
        engine_python, str(model), "plas", "cpu", arguments=("--dtype", "float32", *arguments), **options
    )


@dataclass(frozen=True)
class BareEngine:
    """A running engine.

    Attributes:
        url: its address, without a path.
        key: its API key.
        log_path: file with all that it printed.
    """

    url: str
    key: str
    log_path: Path

    def client(self) -> httpx.AsyncClient:
        """Return a client of its OpenAI-compatible endpoints."""
        return httpx.AsyncClient(base_url=f"{self.url}/v1", headers=self._headers, timeout=240)

    def info(self) -> dict[str, Any]:
        """Return what it says of itself in ``/server_info``."""
        info: dict[str, Any] = httpx.get(f"{self.url}/server_info", headers=self._headers, timeout=60).json()
        return info

    def counts(self) -> dict[str, Any]:
        """Return what the plugin's scheduler process reports there."""
        counts: dict[str, Any] = self.info()["internal_states"][0]["autellix"]
        return counts

    def most_recomputed(self, page_size: int) -> int:
        """Return how many tokens a call may compute again each time that it goes on: of a page, and too few to load.

        What is too few follows the engine's rates, and may have been more before.
        """
        threshold = int(self.counts()["swap"]["load_threshold_tokens"])
        assert threshold < 100
        return page_size + 2 * (threshold - 1)

    def flush(self) -> bool:
        """Empty its prefix cache, and return whether it did: an engine that is busy does not."""
        return httpx.post(f"{self.url}/flush_cache", headers=self._headers, timeout=60).status_code == 200

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@contextmanager
def bare_engine(launch: SglangLaunch, log_path: Path, start_limit_s: float = START_LIMIT_S) -> Iterator[BareEngine]:
    """Run an engine until the context ends."""
    with asyncio.Runner() as runner:  # stops the engine at the end, by cancelling its supervisor
        status = runner.run(_start(launch, log_path, start_limit_s))
        assert status.address is not None
        yield BareEngine(status.address.url, status.address.key, log_path)


async def _start(launch: SglangLaunch, log_path: Path, start_limit_s: float) -> EngineStatus:
    ready: asyncio.Future[EngineStatus] = asyncio.get_running_loop().create_future()

    def on_change(status: EngineStatus) -> None:
        if status.state is EngineState.READY and not ready.done():
            ready.set_result(status)

    timing = Timing(start_limit_s=start_limit_s, attempts=1)
    life = asyncio.create_task(Supervisor(launch, log_path, timing=timing, on_change=on_change).run())
    _alive.add(life)
    await asyncio.wait({life, ready}, return_when=asyncio.FIRST_COMPLETED)
    if life.done():
        life.result()
    return await ready


# The event loop keeps no task alive by itself.
_alive = set[asyncio.Task[None]]()


def assert_nothing_is_left(engine: BareEngine) -> None:
    """No lock, and once the cache is flushed no token in host memory either."""
    counts = engine.counts()
    assert (counts["host_locks"], counts["host_locked_tokens"]) == (0, 0)
    assert engine.flush()
    assert engine.counts()["host_tokens"] == 0


async def running_calls(http: httpx.AsyncClient) -> int:
    """Calls in the engine; those whose clients left are there until it has noticed."""
    loads = (await http.get("/loads?include=core")).json()["loads"]
    return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)
