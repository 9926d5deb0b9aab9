"""Running `script_host_pool.py` in an engine environment."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from autellix_server.engine.home import Device


def round_trips(engine_python: Path, device: Device) -> list[dict[str, Any]]:
    """Return what became of KV that went to host memory and back, case by case."""
    return [line for line in _lines(engine_python, device) if "equal" in line]


def refusals(engine_python: Path) -> list[str]:
    """Return what a host pool for a CPU says to what it cannot do."""
    return [line["refused"] for line in _lines(engine_python, "cpu") if "refused" in line]


def faulty(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cases in which a bit was lost, or touched that had no part in it."""
    return [case for case in cases if not all(case[what] for what in ("equal", "others", "host", "check"))]


@functools.cache
def _lines(engine_python: Path, device: Device) -> list[dict[str, Any]]:
    done = subprocess.run(
        [str(engine_python), str(Path(__file__).with_name("script_host_pool.py")), device],
        env={**os.environ, "PYTHONSAFEPATH": "1", **({"AUTELLIX_CPU": "1"} if device == "cpu" else {})},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
