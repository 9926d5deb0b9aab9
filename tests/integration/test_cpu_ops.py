"""The compiled operations in the engine's Python, compiled as for this machine and as for lesser ones."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

from autellix_server.cpu_ops import build
from tests.integration.test_failures import run_engine_python

pytestmark = pytest.mark.engine

BOUNDS = {"torch.float32": 16.0, "torch.bfloat16": 1.0, "attention torch.bfloat16": 1.5}
"""Greatest errors of a case, or of a type, in units of what the type can tell apart at the largest number of a row.

Rounding a result to bfloat16 costs half a unit. Attention in bfloat16 rounds its weights as well, as PyTorch's does,
whose greatest error over the same tensors is 1.1 to 1.35."""


def results(engine_python: Path, library: Path, threads: int) -> dict[str, dict[str, Any]]:
    """Run the script and return what it found, by case."""
    script = Path(__file__).with_name("cpu_ops_check.py")
    done = run_engine_python(engine_python, [str(script), str(library), str(threads)])
    assert done.returncode == 0, done.stderr[-2000:]
    cases = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {case["case"]: case for case in cases}


def too_far_off(cases: dict[str, dict[str, Any]]) -> list[str]:
    """Return the cases whose error is above their bound."""
    return [name for name, case in cases.items() if not case["error"] <= BOUNDS.get(name, BOUNDS[name.split()[1]])]


def test_operations_are_exact_whoever_computes_them(engine_python: Path) -> None:
    """Within rounding of double precision, and bit for bit alike on one thread and on three."""
    library = build.library(engine_python.parents[1] / build.FOLDER)
    alone, together = (results(engine_python, library, threads) for threads in (1, 3))
    assert len(alone) == 16
    assert too_far_off(alone) == []
    assert together == alone


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the lesser machines are of that kind")
@pytest.mark.parametrize("machine", ["cooperlake", "haswell", "x86-64-v2"])
def test_operations_are_exact_on_lesser_machines(engine_python: Path, tmp_path: Path, machine: str) -> None:
    """Without units for matrices; with vectors of 8 and of 4 floats, and no instructions for bfloat16."""
    if machine == "cooperlake" and "avx512_bf16" not in build.cpu_features():
        pytest.skip("this machine is a lesser one itself")
    compiler = build.compiler()
    assert compiler is not None
    flags = [f"-march={machine}" if flag == "-march=native" else flag for flag in build._flags()]
    library = tmp_path / "operations.so"
    assert build.build([*compiler], library, lambda command: subprocess.call([*command, flags[-1]])) is True
    assert too_far_off(results(engine_python, library, 2)) == []
