"""The demo's agents: examples that run as processes of their own."""

from __future__ import annotations

from pathlib import Path

from autellix_server.demo import agents
from autellix_server.demo.agents import Agent, run_agent


async def test_agent_that_fails_is_reported_with_its_last_line(tmp_path: Path) -> None:
    """One agent's failure does not end the demo; its exit status tells."""
    (tmp_path / "agent.py").write_text("import sys; print('found'); print('a\\nno luck', file=sys.stderr); sys.exit(3)")
    finished = await run_agent(Agent("agent.py", ()), tmp_path, "http://127.0.0.1:1/v1")
    assert (finished.status, finished.output, finished.complaint) == (3, "found\n", "no luck")


def test_examples_are_there() -> None:
    """In a checkout beside the package; in an installed package inside it."""
    assert all((agents.examples_folder() / agent.script).is_file() for agent in agents.AGENTS)
