"""Makes the examples importable, and runs them as a user does: as processes, from any folder."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES), str(Path(__file__).parent)]


class Finished(NamedTuple):
    """How a process ended."""

    code: int
    out: str
    err: str


RunExample = Callable[..., Awaitable[Finished]]


@pytest.fixture
def run_example(tmp_path: Path) -> RunExample:
    """Run ``python examples/<name> <arguments>`` in an empty folder, with `env` added to the environment."""

    async def run(name: str, *arguments: str, env: dict[str, str] | None = None, typed: str = "") -> Finished:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "AUTELLIX_"))}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(EXAMPLES / name),
            *arguments,
            cwd=tmp_path,
            env=clean | (env or {}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(typed.encode())
        assert process.returncode is not None
        return Finished(process.returncode, out.decode(), err.decode())

    return run
