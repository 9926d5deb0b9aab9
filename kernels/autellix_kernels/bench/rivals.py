"""What kernels are compared with: copies one by one, and the engine's own kernels where they are installed.

They are asked for the same as our kernels are, and only in the benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autellix_kernels.bench.engine import EngineKernels
from autellix_kernels.cuda.kernels import Compiled
from autellix_kernels.cuda.library import load
from autellix_kernels.layout import HostLayout, host_shape
from autellix_kernels.pools import HostPool
from autellix_kernels.runs import pool_copies
from autellix_kernels.transfer import SwapKernel, Transfer, Work, on_device


class PerBlock(Compiled):
    """One asynchronous copy for each block in each layer of each component: what a kernel of one's own replaces.

    It has a host where a block's layer is in one piece, and is spared what the paper's had to pay in Python: the loop
    over the copies is compiled.
    """

    name = "per-block"
    slots_on_host = True
    launches = False

    def copy(self, transfer: Transfer) -> Work:
        """Copy, by a call of the driver for each block in each layer."""
        return load().copy_runs(pool_copies(transfer), transfer.device_pool.device, transfer.direction, batched=False)


RIVALS: tuple[SwapKernel, ...] = (PerBlock(), EngineKernels())
"""All of them."""


def asked(kernel: SwapKernel, parts: Sequence[Transfer]) -> Sequence[Transfer]:
    """Return what a contender is asked for instead of some transfers: as much KV, in the layout that is its own.

    Nothing, if it does not know KV of this kind. Lists of slots are where the contender reads them, as in an engine,
    which brings them there once for all layers.
    """
    if isinstance(kernel, EngineKernels) and not kernel.knows(parts[0].device_pool):
        return ()
    if isinstance(kernel, PerBlock):
        host_pool = _by_block(parts[0].host_pool)
        return [replace(part, host_pool=host_pool) for part in parts]
    if kernel.slots_on_host:
        return parts
    device = parts[0].device_pool.device
    lists = {
        "device_slots": on_device(parts[0].device_slots, device),
        "host_slots": on_device(parts[0].host_slots, device),
    }
    return [replace(part, **lists) for part in parts]


def _by_block(pool: HostPool) -> HostPool:
    """Return the same memory in a layout that has a block's layer in one piece."""
    layout, pages = HostLayout.PAGE_FIRST_DIRECT, pool.slots // pool.page_size
    buffers = []
    for buffer in pool.buffers:
        heads, dim = buffer.shape[-2:]
        shape = host_shape(layout, layers=pool.layers, pages=pages, page_size=pool.page_size, heads=heads, dim=dim)
        buffers.append(buffer.view(shape))
    return HostPool(buffers, layout, pool.page_size)
