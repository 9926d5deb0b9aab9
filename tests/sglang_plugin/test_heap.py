"""Memory that a process took for its start alone."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from autellix_server.sglang_plugin.heap import give_back

BLOCK_BYTES, BLOCKS = 100_000, 600


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_what_nobody_uses_goes_back_to_the_machine() -> None:
    """Also below a block that is in use, from where the C library returns nothing by itself."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("this C library has no malloc_trim")
    libc.malloc.restype = ctypes.c_void_p
    blocks = [ctypes.c_void_p(libc.malloc(BLOCK_BYTES)) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK_BYTES)
    for block in blocks[:-1]:
        libc.free(block)
    held = resident_bytes()
    give_back()
    assert held - resident_bytes() > 0.9 * BLOCK_BYTES * BLOCKS
    libc.free(blocks[-1])
