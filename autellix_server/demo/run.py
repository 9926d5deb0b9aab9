"""The demo from start to end: server, agents, live table, bills."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import aiohttp
from rich.console import Console
from rich.live import Live

from autellix_server.demo.agents import AGENTS, Finished, examples_folder, run_agent
from autellix_server.demo.view import Row, programs_table, status_line
from autellix_server.errors import ServerError
from autellix_server.local_server import running_server

_DRAW_PERIOD_S = 0.5
_LINE_PERIOD_S = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo showed.

    Attributes:
        programs: final rows of the programs API.
        agents: what each agent printed.
        ready_s: seconds until the server was ready.
        ran_s: seconds the agents ran.
    """

    programs: Sequence[Row]
    agents: Sequence[Finished]
    ready_s: float
    ran_s: float

    @property
    def succeeded(self) -> bool:
        """Whether every agent ran to its end; how well they answered does not matter here."""
        return all(agent.status == 0 for agent in self.agents)

    def to_json(self) -> dict[str, Any]:
        """JSON object for `--json`."""
        return {
            "ready_s": round(self.ready_s, 2),
            "ran_s": round(self.ran_s, 2),
            "programs": list(self.programs),
            "agents": [{"script": a.agent.script, "status": a.status, "complaint": a.complaint} for a in self.agents],
        }


async def run_demo(serve_arguments: Sequence[str], console: Console) -> Outcome:
    """Start a server, run the agents on it, show them, and stop everything.

    Args:
        serve_arguments: for `autellix serve`.
        console: where progress is drawn; lines instead of a live table when it is no terminal.

    Raises:
        ServerError: the server did not start, or vanished.
    """
    folder = examples_folder()
    began = time.monotonic()

    def say(line: str) -> None:
        console.print(line, style="dim", markup=False, highlight=False)

    async with running_server(serve_arguments, say) as url, aiohttp.ClientSession(url) as session:
        ready = time.monotonic()
        say(f"server ready at {url} after {ready - began:.1f} s; starting {len(AGENTS)} agents")
        watcher = asyncio.create_task(_watch(session, console))
        try:
            async with asyncio.TaskGroup() as group:
                runs = [group.create_task(run_agent(agent, folder, f"{url}/v1")) for agent in AGENTS]
        finally:
            watcher.cancel()
        ran_s = time.monotonic() - ready
        programs = await _programs(session)
    return Outcome(programs, [run.result() for run in runs], ready - began, ran_s)


def show_outcome(outcome: Outcome) -> None:
    """Print the time bills and what the agents found to standard output."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(programs_table(outcome.programs, "Time bills"))
    for finished in outcome.agents:
        console.rule(finished.agent.script, align="left")
        console.print(finished.output.strip() or finished.complaint, markup=False, highlight=False)
    console.print(f"\nserver ready after {outcome.ready_s:.1f} s, agents ran {outcome.ran_s:.1f} s", style="dim")


async def _watch(session: aiohttp.ClientSession, console: Console) -> None:
    """Show the programs until cancelled."""
    drawn = console.is_terminal
    live = Live(console=console, auto_refresh=False, transient=True) if drawn else None
    with live or nullcontext():
        while True:
            await asyncio.sleep(_DRAW_PERIOD_S if drawn else _LINE_PERIOD_S)
            try:
                rows = await _programs(session)
            except ServerError:  # the last look, when the agents are done, tells
                continue
            if live:
                live.update(programs_table(rows, "Programs"), refresh=True)
            else:
                console.print(status_line(rows), markup=False, highlight=False)


async def _programs(session: aiohttp.ClientSession) -> list[Row]:
    try:
        async with session.get("/autellix/v1/programs", params={"all": "1"}) as response:
            response.raise_for_status()
            listing: dict[str, list[Row]] = await response.json()
            return listing["programs"]
    except aiohttp.ClientError as error:
        raise ServerError(f"the demo's server cannot be reached: {error}") from error
