"""A gateway that is killed under load, again and again: what had been committed is there, and nothing else."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from state_world import PROGRAMS, World

SCRIPT = Path(__file__).with_name("script_gateway.py")
KILLS = 8


def run_until_killed(path: Path, commits: int, more: int) -> tuple[int, int]:
    """Run a gateway and kill it some charges after some commits; return charges surely stored, and begun."""
    seen = {"stored": 0, "began": 0}
    with subprocess.Popen([sys.executable, str(SCRIPT), str(path)], stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        for line in gateway.stdout:
            kind, number, _ = line.split()
            seen[kind] = int(number)
            commits -= kind == "stored"
            more -= commits <= 0
            if more < 0:
                gateway.kill()  # what it wrote until then is still read
    return seen["stored"], seen["began"]


def test_a_gateway_that_is_killed_loses_nothing_committed_and_makes_nothing_up(tmp_path: Path) -> None:
    """Lost are at most the charges since the last commit began: what is there is all that was, up to one moment."""
    path, dice = tmp_path / "gateway.db", random.Random(7)
    before = 0
    for _ in range(KILLS):
        stored, begun = run_until_killed(path, commits=dice.randrange(1, 3), more=dice.randrange(500))
        world = World(path)
        charges = sum(row.completed for row in world.table)
        assert before < stored <= charges <= begun
        # Charge number N goes to program N modulo PROGRAMS.
        assert Counter({row.id: row.completed for row in world.table}) == Counter(
            f"p{number % PROGRAMS}" for number in range(1, charges + 1)
        )
        for row in world.table:
            assert (row.service_us, row.output_tokens) == (row.completed * 1_000_000, row.completed * 7)
            assert row.busy_since_s is None
        before = charges
        world.state.close()
