"""Run by the engine environment's Python: backs KV up to the host pool, poisons the device, loads it back.

Takes the device. On CUDA SGLang's own pool is tested beside ours. Prints one JSON object per case: pool, page size,
layout, copy backend, dtype, tokens, and whether every bit of every layer came back, slots that had no part in it were
left alone, the host slots beside them too, and whether our pool finds the one page of which a bit is turned. On a CPU
then what it says to what it cannot do.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from autellix_kernels.select import SWITCH
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost

from autellix_server.sglang_plugin.host_pool import ENGINE, LAYOUTS, KernelHostPool
from autellix_server.sglang_plugin.swap_check import SwapCheck

BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


@dataclass(frozen=True)
class World:
    """What is tested on a device.

    Attributes:
        device: ``cpu`` or ``cuda``.
        ways: classes of the host pool, host layouts and copy backends that go together.
        page_sizes: tokens in a page.
        layers: of the model.
        heads: of keys and values.
        head_dim: numbers in each.
    """

    device: str
    ways: tuple[tuple[type[Any], str, str], ...]
    page_sizes: tuple[int, ...]
    layers: int = 3
    heads: int = 3
    head_dim: int = 24


WORLDS = {
    "cpu": World("cpu", tuple((KernelHostPool, layout, "direct") for layout in LAYOUTS), (1, 16)),
    "cuda": World(
        "cuda",
        (
            *((KernelHostPool, layout, "kernel") for layout in LAYOUTS),
            *((KernelHostPool, layout, "direct") for layout in LAYOUTS),
            *((MHATokenToKVPoolHost, layout, "kernel") for layout in ("layer_first", "page_first", "page_head")),
            *((MHATokenToKVPoolHost, layout, "direct") for layout in ("layer_first", "page_first_direct")),
        ),
        (1, 16, 64),
        # A rank's share of an 8B model: the copy kernels are made for such sizes.
        heads=8,
        head_dim=128,
    ),
}


def slots_of(page_size: int) -> int:
    """Return how many slots the device has."""
    return 15 * max(page_size, 16)


def device_pool(world: World, page_size: int, dtype: torch.dtype, noise: torch.Generator) -> MHATokenToKVPool:
    """Return a device pool full of random bits, NaNs among them."""
    pool = MHATokenToKVPool(
        size=slots_of(page_size),
        page_size=page_size,
        dtype=dtype,
        head_num=world.heads,
        head_dim=world.head_dim,
        layer_num=world.layers,
        device=world.device,
        enable_memory_saver=False,
    )
    limits = torch.iinfo(BITS[dtype])
    for buffer in buffers(pool):
        bits = torch.empty(buffer.shape, dtype=BITS[dtype]).random_(limits.min, limits.max, generator=noise)
        buffer.view(BITS[dtype]).copy_(bits)
    return pool


def buffers(pool: MHATokenToKVPool) -> list[torch.Tensor]:
    """Return keys and values of every layer."""
    return [*pool.k_buffer, *pool.v_buffer]


def some_slots(pages: int, page_size: int, noise: torch.Generator) -> torch.Tensor:
    """Return the slots of random pages, in no order; page 0 belongs to nobody."""
    chosen = torch.randperm(slots_of(page_size) // page_size - 1, generator=noise)[:pages] + 1
    return (chosen[:, None] * page_size + torch.arange(page_size)).flatten()


def placed(
    world: World, layout: str, backend: str, host_slots: torch.Tensor, slots: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return host and device slots as SGLang's cache controller hands them to a copy."""
    if world.device == "cpu":
        return host_slots, slots
    if backend == "kernel":
        return host_slots.to(world.device), slots.to(world.device)
    if layout == "layer_first":
        host_slots, order = host_slots.sort()
        slots = slots[order]
    return host_slots, slots


def round_trip(
    world: World, page_size: int, way: tuple[type[Any], str, str], dtype: torch.dtype, pages: int
) -> dict[str, Any]:
    """Back up, poison, load back into other slots, compare."""
    pool, layout, backend = way
    noise = torch.Generator().manual_seed(pages)
    device = device_pool(world, page_size, dtype, noise)
    info = device.get_device_pool_infos()[0].buffer_info
    layers, capacity = world.layers, slots_of(page_size)
    host = pool(info, 2.0, 0, page_size, layout, device_capacity_tokens=capacity, start_layer=0, end_layer=layers)
    host.kv_buffer.zero_()
    if pool is KernelHostPool:
        host.start(backend, SwapCheck(share=1))
    tokens = pages * page_size
    here, there = (some_slots(pages, page_size, noise) for _ in range(2))
    host.alloc(2 * page_size)
    host_slots = host.alloc(tokens).reshape(pages, page_size).flip(0).flatten()
    bits = [buffer.view(BITS[dtype]).cpu().clone() for buffer in buffers(device)]
    host.backup_from_device_all_layer(device, *placed(world, layout, backend, host_slots, here), backend)
    finish(world)
    used = int(host.kv_buffer.view(BITS[dtype]).ne(0).sum())
    for buffer in buffers(device):
        buffer.fill_(float("nan"))
    poison = buffers(device)[0].view(BITS[dtype]).flatten()[0].cpu().clone()
    load = placed(world, layout, backend, host_slots, there)
    for layer in range(layers + 2):  # others than its own are left out
        host.load_to_device_per_layer(device, *load, layer, backend)
    finish(world)
    after = [buffer.view(BITS[dtype]).cpu() for buffer in buffers(device)]
    others = torch.ones(len(after[0]), dtype=torch.bool)
    others[there] = False
    return {
        "pool": pool.__name__,
        "page_size": page_size,
        "layout": layout,
        "backend": backend,
        "dtype": str(dtype),
        "tokens": tokens,
        "equal": all(torch.equal(old[here], new[there]) for old, new in zip(bits, after, strict=True)),
        "others": all(bool((new[others] == poison).all()) for new in after),
        "host": used <= 2 * layers * world.heads * world.head_dim * tokens,
        "check": pool is not KernelHostPool or finds_a_turned_bit(host, host_slots, noise),
    }


def finds_a_turned_bit(host: KernelHostPool, host_slots: torch.Tensor, noise: torch.Generator) -> bool:
    """Whether a pool finds nothing changed, then one page after a bit was turned, and nothing it was not told of."""
    found = [host.changed_pages(host_slots)]
    row = host.k_buffer[host.layer_num - 1] if host.layout == "layer_first" else host.k_buffer
    page = int(host_slots[0]) // host.page_size
    part = row[page] if host.layout == "page_first_direct" else row[int(host_slots[0])]
    flat = part.view(torch.uint8).flatten()
    place = int(torch.randint(len(flat), (1,), generator=noise))
    flat[place] ^= 1 << int(torch.randint(8, (1,), generator=noise))
    found.append(host.changed_pages(host_slots))
    host.free(host_slots)
    found.append(host.changed_pages(host.alloc(host.available_size())))
    return found == [0, 1, 0]


def finish(world: World) -> None:
    """Wait for copies that the device makes beside us."""
    if world.device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Run every case on the device that is named."""
    world = WORLDS[sys.argv[1]]
    for page_size, way, dtype, pages in product(world.page_sizes, world.ways, BITS, (1, 7, 13)):
        print(json.dumps(round_trip(world, page_size, way, dtype, pages)))
    if world.device == "cpu":
        for layout, kernel in (("page_head", ""), ("page_first", ENGINE)):
            os.environ[SWITCH] = kernel
            print(json.dumps({"refused": refusal(world, layout)}))


def refusal(world: World, layout: str) -> str | None:
    """What our pool ends the process with; `None` if it does not."""
    device = device_pool(world, 16, torch.float32, torch.Generator())
    info = device.get_device_pool_infos()[0].buffer_info
    try:
        KernelHostPool(info, 2.0, 0, 16, layout, device_capacity_tokens=240, start_layer=0, end_layer=world.layers)
    except SystemExit as ending:
        return str(ending)
    return None


if __name__ == "__main__":
    sys.exit(main())
