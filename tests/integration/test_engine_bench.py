"""`autellix engine bench` with the real engine, once as it is shipped and once as it comes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.server import session_tree, survivors

pytestmark = [pytest.mark.engine, pytest.mark.slow]

BENCH = (sys.executable, "-m", "autellix_server", "engine", "bench")
SMALL = ("--rounds", "1", "--repeats", "1", "--concurrency", "1,2", "--tokens", "8", "--json")


def test_stock_and_ours_are_measured_in_turn(engine_python: Path) -> None:
    """Each runs what it is to run, and has speeds, memory, ratios and a share of the floor."""
    done = subprocess.run(BENCH + SMALL, capture_output=True, text=True, timeout=570, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["arms"]["stock"]["attention_backend"] == "torch_native"
    assert (found["arms"]["stock"]["policy"], found["arms"]["ours"]["policy"]) == ("off", "auto")
    assert [(turn["arm"], turn["number"]) for turn in found["turns"]] == [("stock", 0), ("ours", 0)]
    assert all(turn["memory"]["processes"] >= 3 for turn in found["turns"])
    assert {ratio["what"] for ratio in found["ratios"]} >= {"decode 1", "decode 2", "prefill 512", "start s"}
    assert min(value for medians in found["medians"].values() for value in medians.values()) > 0
    for floor in found["floors"]:
        assert 250e6 < floor["step_bytes"] < 280e6
        assert 0 < floor["share"] < 1


def test_ctrl_c_while_an_engine_starts_leaves_nothing(engine_python: Path) -> None:
    """Exit status 130, and every process is gone."""
    bench = subprocess.Popen(BENCH + SMALL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert bench.stderr is not None
    while "starting" not in (line := bench.stderr.readline()):
        assert line, "it ended before an engine started"
    while len(processes := session_tree(bench.pid)) < 3:
        assert bench.poll() is None
    bench.send_signal(signal.SIGINT)
    printed, said = bench.communicate(timeout=60)
    assert (bench.returncode, printed) == (130, "")
    assert said.endswith("autellix: interrupted\n")
    assert survivors(processes) == set()
