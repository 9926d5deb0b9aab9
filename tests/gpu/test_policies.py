"""Policies compared on the same device, for the record: no speed is demanded, and no call may fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.suite import SUITE

pytestmark = pytest.mark.gpu

POLICIES = "fcfs,plas,auto"


def test_policies_serve_every_program(model: Path, tmp_path: Path) -> None:
    """Arms in turn, each on a fresh server, over the same arrivals; the tables are printed."""
    command = [
        *(sys.executable, "-m", "autellix_server", "bench", "--policies", POLICIES, *SUITE.load.programs),
        *("--timeout", "300", "--output", str(tmp_path)),
        *("--", "--model", str(model), "--device", SUITE.device, "--host-kv-gb", str(SUITE.host_kv_gb)),
        *("--", *SUITE.load.engine),
    ]
    print(flush=True)
    done = subprocess.run(command, check=False)
    assert done.returncode == 0
    results = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert {result["arm"] for result in results} == set(POLICIES.split(","))
    assert [result["failures"] for result in results if result["failures"]] == []
    assert all(result["programs"] > 0 for result in results)
