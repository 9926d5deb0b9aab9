"""Arms as real processes: started, waited for, measured, and gone."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from paced_client import SILENT

from autellix_server.engine.guardian import live_processes
from autellix_server.engine_bench.arms import Arm, command_arm
from autellix_server.engine_bench.measure import Load, measure_speeds
from autellix_server.engine_bench.servers import running_arm
from autellix_server.errors import EngineFailure


def tiny(mode: str = "") -> Arm:
    """Return an arm that behaves so."""
    return command_arm(f"tiny={sys.executable} {Path(__file__).with_name('tiny_server.py')} {{port}} {mode}", "/model")


def children(log: Path) -> set[int]:
    """Return the processes that a server said it started and that are alive."""
    started = {int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("child ")}
    return started & {entry.pid for entry in live_processes()}


@pytest.mark.parametrize("mode", ["", "slow-start"])
async def test_an_arm_is_measured_and_nothing_of_it_is_left(tmp_path: Path, mode: str) -> None:
    """Its child process counts for the memory, and goes with it."""
    log = tmp_path / "log"
    async with running_arm(tiny(mode), log, print) as running:
        speeds = await measure_speeds(running.client, Load((1,), 16, 8, 8, repeats=1), "salt", SILENT)
        memory = running.memory()
        assert len(children(log)) == 1
    assert running.facts == {"model": "tiny"}
    assert running.start_s > 0
    assert min(samples[0] for samples in speeds.tokens_per_s.values()) > 0
    assert memory.processes == 2
    assert children(log) == set()


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("dies", "tiny exited with status 1 before it answered; the last lines of .*log:\n  the model is not there"),
        ("refuses", "tiny: POST .*/v1/completions is answered with 400: prompt must be a text; .*log: .*log"),
    ],
)
async def test_an_arm_that_cannot_be_measured_says_why(tmp_path: Path, mode: str, sentence: str) -> None:
    """At once, and with its log."""
    with pytest.raises(EngineFailure, match=sentence):
        async with running_arm(tiny(mode), tmp_path / "log", print):
            pytest.fail("it does not start")
    assert children(tmp_path / "log") == set()


async def test_an_arm_that_is_given_up_while_it_starts_is_ended(tmp_path: Path) -> None:
    """As Ctrl-C does."""
    log = tmp_path / "log"

    async def start() -> None:
        async with running_arm(tiny("silent"), log, print):
            pytest.fail("it never says that it is ready")

    starting = asyncio.create_task(start())
    while not (log.exists() and children(log)):
        await asyncio.sleep(0.01)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert starting.cancelled()
    assert children(log) == set()
