"""Run by the engine environment's Python: backs KV up to the CPU host pool, poisons the device, loads it back.

Prints one JSON object per case: page size, layout, dtype, tokens, and whether every bit of every layer came back, slots
that had no part in it were left alone, and the host slots beside them too.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from typing import Any

import torch
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

from autellix_server.sglang_plugin.host_pool import LAYOUTS, CpuHostPool

LAYERS, HEADS, HEAD_DIM, SLOTS = 3, 3, 24, 240
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


def device_pool(page_size: int, dtype: torch.dtype, noise: torch.Generator) -> MHATokenToKVPool:
    """Return a device pool full of random bits, NaNs among them."""
    pool = MHATokenToKVPool(
        size=SLOTS,
        page_size=page_size,
        dtype=dtype,
        head_num=HEADS,
        head_dim=HEAD_DIM,
        layer_num=LAYERS,
        device="cpu",
        enable_memory_saver=False,
    )
    for buffer in buffers(pool):
        limits = torch.iinfo(BITS[dtype])
        buffer.view(BITS[dtype]).random_(limits.min, limits.max, generator=noise)
    return pool


def buffers(pool: MHATokenToKVPool) -> list[torch.Tensor]:
    """Return keys and values of every layer."""
    return [*pool.k_buffer, *pool.v_buffer]


def some_slots(pages: int, page_size: int, slots: int, noise: torch.Generator) -> torch.Tensor:
    """Return the slots of random pages, in no order; page 0 belongs to nobody."""
    chosen = torch.randperm(slots // page_size - 1, generator=noise)[:pages] + 1
    return (chosen[:, None] * page_size + torch.arange(page_size)).flatten()


def round_trip(page_size: int, layout: str, dtype: torch.dtype, pages: int) -> dict[str, Any]:
    """Back up, poison, load back into other slots, compare."""
    noise = torch.Generator().manual_seed(pages)
    device = device_pool(page_size, dtype, noise)
    info = device.get_device_pool_infos()[0].buffer_info
    host = CpuHostPool(info, 2.0, 0, page_size, layout, device_capacity_tokens=SLOTS, start_layer=0, end_layer=LAYERS)
    host.kv_buffer.zero_()
    tokens = pages * page_size
    here, there = (some_slots(pages, page_size, SLOTS, noise) for _ in range(2))
    host.alloc(2 * page_size)
    host_slots = host.alloc(tokens).reshape(pages, page_size).flip(0).flatten()
    bits = [buffer.view(BITS[dtype]).clone() for buffer in buffers(device)]
    host.backup_from_device_all_layer(device, host_slots, here, "direct")
    used = int(host.kv_buffer.view(BITS[dtype]).ne(0).sum())
    for buffer in buffers(device):
        buffer.fill_(float("nan"))
    poison = buffers(device)[0].view(BITS[dtype]).flatten()[0].clone()
    for layer in range(LAYERS + 2):  # others than its own are left out
        host.load_to_device_per_layer(device, host_slots, there, layer, "direct")
    after = [buffer.view(BITS[dtype]) for buffer in buffers(device)]
    others = torch.ones(len(after[0]), dtype=torch.bool)
    others[there] = False
    return {
        "page_size": page_size,
        "layout": layout,
        "dtype": str(dtype),
        "tokens": tokens,
        "equal": all(torch.equal(old[here], new[there]) for old, new in zip(bits, after, strict=True)),
        "others": all(bool((new[others] == poison).all()) for new in after),
        "host": used <= 2 * LAYERS * HEADS * HEAD_DIM * tokens,
    }


def main() -> None:
    """Run every case."""
    for page_size, layout, dtype, pages in product((1, 16), LAYOUTS, BITS, (1, 7, 13)):
        print(json.dumps(round_trip(page_size, layout, dtype, pages)))


if __name__ == "__main__":
    sys.exit(main())
