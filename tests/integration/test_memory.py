"""What a CPU engine keeps in memory, all of its processes together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.integration.server import Server, session_tree
from tests.integration.test_failures import run_engine_python

pytestmark = pytest.mark.engine

LIMIT_BYTES = 2.5e9
"""Resident, with what processes share counted in each."""


def resident_bytes(root: int) -> dict[int, int]:
    """Resident memory, in bytes, of `root` and every process below it, by PID."""
    lines = {pid: Path(f"/proc/{pid}/status").read_text().splitlines() for pid, _ in session_tree(root)}
    sizes = {pid: [line.split()[1] for line in of if line.startswith("VmRSS:")] for pid, of in lines.items()}
    return {pid: 1024 * int(size[0]) for pid, size in sizes.items() if size}


def test_engine_that_served_calls_stays_within_its_memory(server: Server) -> None:
    """Long prompts and many calls at once; it is SGLang's HTTP process, one scheduler, and what starts them."""

    def ask(number: int) -> int:
        body = {"model": "default", "prompt": f"{number} " + "word " * 800, "max_tokens": 16}
        return httpx.post(f"{server.base_url}/completions", json=body, timeout=240).status_code

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [200] * 4
    resident = resident_bytes(server.engine_pid)
    assert sum(resident.values()) < LIMIT_BYTES, resident
    assert len([size for size in resident.values() if size > LIMIT_BYTES / 10]) == 2


def test_pool_of_keys_and_values_takes_memory_as_it_fills(engine_python: Path) -> None:
    """A gigabyte of it is there at once, reads as zeros, has SGLang's shapes, and is resident where it was written.

    And where it was prepared, on systems that can do that.
    """
    done = run_engine_python(engine_python, [str(Path(__file__).with_name("kv_pool_check.py"))])
    assert done.returncode == 0, done.stderr[-2000:]
    empty_mb, prepared_mb, half_full_mb = map(float, done.stdout.split())
    assert empty_mb < 20
    assert 100 < prepared_mb < 130
    assert 500 < half_full_mb < 560


def test_detokenizer_that_fails_ends_the_engine(engine_python: Path) -> None:
    """By the signal that SGLang's own process sends to the HTTP process; several workers stay processes."""
    done = run_engine_python(engine_python, [str(Path(__file__).with_name("detokenizer_check.py"))])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["SIGQUIT", "processes"]
