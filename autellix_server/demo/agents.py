"""The agents of the demo: the examples of this project, run as a user would run them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autellix_sdk.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Agent:
    """One example and how the demo runs it.

    Attributes:
        script: file name in the folder of examples.
        arguments: its command line, besides the server's address.
    """

    script: str
    arguments: tuple[str, ...]


AGENTS = (
    Agent("react.py", ("--concurrency", "4", "--limit", "6", "--max-steps", "4")),
    Agent("mcts.py", ("--concurrency", "2", "--limit", "2", "--iterations", "6", "--parallel", "2")),
)
"""Four ReAct programs and two searches at once: short programs beside long ones with parallel threads."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What an agent printed.

    Attributes:
        agent: which one.
        status: its exit status.
        output: its standard output.
        complaint: the last line of its standard error.
    """

    agent: Agent
    status: int
    output: str
    complaint: str


def examples_folder() -> Path:
    """Return the folder of the examples.

    Raises:
        ConfigurationError: this installation has none, or the package they need is missing.
    """
    package = Path(__file__).resolve().parents[1]
    folder = next((f for f in (package.parent / "examples", package / "examples") if (f / "react.py").is_file()), None)
    if folder is None:
        raise ConfigurationError("this installation has no examples; run the demo from a checkout of the project")
    if importlib.util.find_spec("openai") is None:
        raise ConfigurationError('the examples need the openai package: pip install "autellix[examples]"')
    return folder


async def run_agent(agent: Agent, folder: Path, base_url: str) -> Finished:
    """Run one agent to its end; cancelling ends its process.

    Args:
        agent: what to run.
        folder: folder of the examples.
        base_url: address of the server, with ``/v1``.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(folder / agent.script), "--base-url", base_url, *agent.arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")},
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
    last_line = errors.decode(errors="replace").strip().rpartition("\n")[2]
    return Finished(agent, process.returncode or 0, output.decode(errors="replace"), last_line)
