"""Run in the engine's environment: prints what KV pools of 1 GB add to this process, in MB.

An empty one, then one of which a tenth was prepared, then a half full one.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

from autellix_server.sglang_plugin.cpu_memory import LazyKvPool, lazy_zeros, prepare_next

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
while lazy._prepared_slots < SLOTS // 10:
    lazy.prepare(SLOTS // 10)
prepared = resident_mb() - before
assert not any(buffer[: SLOTS // 10].any() for buffer in buffers)
assert sum(buffer.nbytes for buffer in buffers) > 0.99e9
for buffer in buffers:
    assert buffer.is_contiguous()
    buffer[: SLOTS // 2] = 1
half_full = resident_mb() - before
assert all(not buffer[SLOTS // 2 :].any() for buffer in buffers)

for page_size, free, slots in ((1, range(7, 600), 519), (16, range(1, 600), 528), (16, [3], 64), (16, [], 0)):
    small = bare(LazyKvPool, 10_000)
    allocator = SimpleNamespace(
        page_size=page_size, free_pages=torch.tensor(free), get_kvcache=lambda small=small: small
    )
    scheduler = SimpleNamespace(token_to_kv_pool_allocator=allocator)
    assert prepare_next(lambda told: told, scheduler) is scheduler
    assert small._prepared_slots == slots
other = SimpleNamespace(get_kvcache=lambda: object.__new__(MHATokenToKVPool))
assert prepare_next(lambda told: "idle", SimpleNamespace(token_to_kv_pool_allocator=other)) == "idle"
assert lazy_zeros((3, 2), torch.float32).tolist() == [[0.0, 0.0]] * 3
print(empty, prepared, half_full)
