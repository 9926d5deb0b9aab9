"""This machine's memory bandwidth, measured in a process of its own."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autellix_server.engine.command import CPU_ENVIRONMENT
from autellix_server.engine.runner import child_environment
from autellix_server.errors import EngineFailure

_READER = "autellix_server.sglang_plugin.read_bandwidth"


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """How fast memory is read.

    Attributes:
        bytes_per_s: by all cores together.
        way: what read it the fastest.
        threads: how many read.
    """

    bytes_per_s: float
    way: str
    threads: int


async def measure_bandwidth(python: Path) -> Bandwidth:
    """Measure for about ten seconds; nothing else should run.

    Args:
        python: interpreter of the engine environment.

    Raises:
        EngineFailure: it cannot be measured; the message is the last line of what was printed.
    """
    reader = await asyncio.create_subprocess_exec(
        *(str(python), "-m", _READER),
        env=child_environment(CPU_ENVIRONMENT),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches us alone, and we end it
    )
    try:
        said, complained = await reader.communicate()
    finally:
        with suppress(ProcessLookupError):
            reader.kill()
        await reader.wait()
    if reader.returncode != 0:
        words = complained.decode(errors="replace").split("\n")
        raise EngineFailure(f"memory bandwidth cannot be measured: {next(filter(None, reversed(words)), 'no output')}")
    return Bandwidth(**json.loads(said))
