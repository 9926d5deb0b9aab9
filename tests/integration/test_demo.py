"""The demo as a user runs it, on the real engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.server import session_tree, survivors

pytestmark = pytest.mark.engine

DEMO = [sys.executable, "-m", "autellix_server", "demo", "--json"]


def test_demo_shows_programs_and_leaves_nothing_running(engine_python: Path) -> None:
    """It exits with 0, every program is billed, and none of its processes is left."""
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stderr is not None
        ready = next(line for line in demo.stderr if line.startswith("server ready"))
        processes = session_tree(demo.pid)
        output, _ = demo.communicate(timeout=300)
    shown = json.loads(output)
    assert demo.returncode == 0
    assert "starting 2 agents" in ready
    assert len(processes) >= 5  # demo, gateway, guardian, HTTP process, scheduler
    assert survivors(processes) == set()
    assert {program["name"] for program in shown["programs"]} == {"react", "mcts"}
    for program in shown["programs"]:
        assert program["state"] == "ended"
        assert program["calls_completed"] == program["bill"]["calls"] > 0
        assert program["bill"]["decode_us"] > 0
    assert max(program["threads"] for program in shown["programs"] if program["name"] == "mcts") > 1


def test_demo_that_is_killed_takes_its_server_with_it(engine_python: Path) -> None:
    """Even SIGKILL, while the engine starts."""
    with subprocess.Popen(DEMO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stderr is not None
        next(line for line in demo.stderr if "engine e0 starting" in line)
        processes = session_tree(demo.pid)
        os.kill(demo.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while survivors(processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(processes) >= 3
    assert survivors(processes) == set()
