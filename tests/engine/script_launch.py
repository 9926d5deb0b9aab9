"""Starts `script_engine` where SGLang would be, and watches what becomes of its processes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autellix_server.engine.guardian import live_processes
from autellix_server.engine.supervisor import Timing

SCRIPT = Path(__file__).parent / "script_engine.py"
QUICK = Timing(poll_s=0.02, start_limit_s=20.0, grace_s=0.5, backoff_s=0.05, stable_s=0.0)


@dataclass(frozen=True)
class ScriptLaunch:
    """A launch whose engine is a small script; satisfies `process.Launch`.

    Attributes:
        folder: where the engine writes the process IDs of its family, one a line.
        mode: how it behaves, see `script_engine`.
    """

    folder: Path
    mode: str = "ok"
    name: str = "e0"
    policy: str = "plas"
    secret: bytes = b"0123456789abcdef"
    python: Path = Path(sys.executable)
    model: str = "owner/tiny"
    device: str = "cpu"

    def copies(self, engines: int) -> list[ScriptLaunch]:
        """Return launches of several such engines."""
        return [replace(self, name=f"e{number}") for number in range(engines)]

    def command(self, port: int, config: Path) -> list[str]:
        """Return the script's command line."""
        options = {"config": config, "port": port, "pids": self.pids, "mode": self.mode, "policy": self.policy}
        given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return [sys.executable, str(SCRIPT), *given]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the caller's environment."""
        return dict(environ)

    @property
    def pids(self) -> Path:
        """The file of process IDs."""
        return self.folder / "pids"

    def family(self) -> set[int]:
        """Return every process that an engine of this launch has started."""
        return {int(line) for line in self.pids.read_text().split()} if self.pids.exists() else set()


async def until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    """Poll until `condition` holds: what happens in other processes cannot be awaited."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.02)


def survivors(pids: set[int]) -> set[int]:
    """Return those of `pids` that are still alive."""
    return pids & {entry.pid for entry in live_processes()}
