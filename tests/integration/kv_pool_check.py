"""Run in the engine's environment: prints what KV pools of 1 GB add to this process, in MB.

An empty one, then one of which a tenth was prepared, then a half full one.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

from autellix_server.sglang_plugin.cpu_memory import LazyKvPool, lazy_zeros

LAYERS, SLOTS, HEADS, SIZE = 4, 260_000, 4, 60


def bare(pool_class: type, slots: int) -> MHATokenToKVPool:
    """Return a pool with nothing but its buffers."""
    pool = object.__new__(pool_class)
    vars(pool).update(size=slots, page_size=1, head_num=HEADS, head_dim=SIZE, v_head_dim=SIZE, layer_num=LAYERS)
    vars(pool).update(use_hnd=False, store_dtype=torch.bfloat16, device="cpu", kv_cache_layout="nhd")
    pool._create_buffers_normal()
    return pool


def resident_mb() -> float:
    """Resident memory of this process in MB, 1e6 bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


before = resident_mb()
lazy = bare(LazyKvPool, SLOTS)
empty = resident_mb() - before
buffers = [*lazy.k_buffer, *lazy.v_buffer]
lazy.prepare(SLOTS // 10)
prepared = resident_mb() - before
assert not any(buffer[: SLOTS // 10].any() for buffer in buffers)
assert sum(buffer.nbytes for buffer in buffers) > 0.99e9
for buffer in buffers:
    assert buffer.is_contiguous()
    buffer[: SLOTS // 2] = 1
half_full = resident_mb() - before
assert all(not buffer[SLOTS // 2 :].any() for buffer in buffers)

assert lazy_zeros((3, 2), torch.float32).tolist() == [[0.0, 0.0]] * 3
print(empty, prepared, half_full)
