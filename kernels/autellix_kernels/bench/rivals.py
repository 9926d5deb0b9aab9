"""What kernels are compared with: copies one by one, and the engine's own kernels where they are installed.

They are asked for the same as our kernels are, and only in the benchmark.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from autellix_kernels.cuda.library import load
from autellix_kernels.errors import KernelUnavailable
from autellix_kernels.layout import HostLayout, host_shape
from autellix_kernels.pools import HostPool
from autellix_kernels.runs import pool_copies
from autellix_kernels.transfer import Direction, SwapKernel, Transfer, Work, on_device


class PerBlock:
    """One asynchronous copy for each block in each layer of each component: what a kernel of one's own replaces.

    It has a host where a block's layer is in one piece, and is spared what the paper's had to pay in Python: the loop
    over the copies is compiled.
    """

    name = "per-block"
    slots_on_host = True

    def refusal(self, device: torch.device) -> str | None:
        """Return why it cannot run: the loop is in the compiled library."""
        try:
            load()
        except KernelUnavailable as error:
            return str(error)
        return None

    def copy(self, transfer: Transfer) -> Work:
        """Copy, by a call of the driver for each block in each layer."""
        return load().copy_runs(pool_copies(transfer), transfer.device_pool.device, transfer.direction, batched=False)


class EngineKernels:
    """SGLang's compiled kernels, called as its host pool calls them; keys and values of the same shape only.

    Its ``direct`` copies for layouts whose pages have a layer in one piece, its kernels for the others.
    """

    name = "sglang"
    slots_on_host = False

    def refusal(self, device: torch.device) -> str | None:
        """Return why it cannot run: there is no GPU, or the kernels are not there or cannot be loaded."""
        if device.type != "cuda":
            return "there is no GPU"
        if importlib.util.find_spec("sgl_kernel") is None:
            return "there is no sgl_kernel; it comes with the engine: autellix engine install --device cuda"
        try:
            _engine()
        except (ImportError, OSError) as error:
            return f"sgl_kernel cannot be loaded: {error}"
        return None

    def copy(self, transfer: Transfer) -> Work:
        """Copy, in one call for all layers or for one."""
        call = _outward if transfer.direction is Direction.OUT else _inward
        call(_engine(), transfer)
        return Work(launches=1)


RIVALS: tuple[SwapKernel, ...] = (PerBlock(), EngineKernels())
"""All of them."""


def asked(kernel: SwapKernel, parts: Sequence[Transfer]) -> Sequence[Transfer]:
    """Return what a contender is asked for instead of some transfers: as much KV, in the layout that is its own.

    Nothing, if it does not know KV of this kind.
    """
    row_bytes = parts[0].device_pool.row_bytes
    if kernel.name == EngineKernels.name:
        return parts if len(row_bytes) == 2 and row_bytes[0] == row_bytes[1] else ()
    if kernel.name == PerBlock.name:
        host_pool = _by_block(parts[0].host_pool)
        return [replace(part, host_pool=host_pool) for part in parts]
    return parts


def _by_block(pool: HostPool) -> HostPool:
    """Return the same memory in a layout that has a block's layer in one piece."""
    layout, pages = HostLayout.PAGE_FIRST_DIRECT, pool.slots // pool.page_size
    buffers = []
    for buffer in pool.buffers:
        heads, dim = buffer.shape[-2:]
        shape = host_shape(layout, layers=pool.layers, pages=pages, page_size=pool.page_size, heads=heads, dim=dim)
        buffers.append(buffer.view(shape))
    return HostPool(buffers, layout, pool.page_size)


@functools.cache
def _engine() -> Any:
    return importlib.import_module("sgl_kernel.kvcacheio")


def _outward(engine: Any, transfer: Transfer) -> None:
    """As `MHATokenToKVPoolHost.backup_from_device_all_layer`."""
    device_pool, host_pool = transfer.device_pool, transfer.host_pool
    host_keys, host_values = host_pool.buffers
    row_bytes, layers = device_pool.row_bytes[0], device_pool.layers
    if host_pool.layout is HostLayout.PAGE_FIRST_DIRECT:
        engine.transfer_kv_all_layer_direct_lf_pf(
            src_ptrs=[*device_pool.components[0], *device_pool.components[1]],
            dst_ptrs=[host_keys, host_values],
            src_indices=transfer.device_slots,
            dst_indices=transfer.host_slots,
            page_size=host_pool.page_size,
        )
        return
    slots = {"src_indices": transfer.device_slots, "dst_indices": transfer.host_slots}
    common = {name: on_device(of, device_pool.device) for name, of in slots.items()}
    common |= {"item_size": row_bytes, "num_layers": layers}
    # Tables of addresses, which the engine has as unsigned numbers.
    keys, values = device_pool.addresses.view(torch.uint64)
    if host_pool.layout is HostLayout.PAGE_FIRST:
        engine.transfer_kv_all_layer_lf_pf(
            src_k_layers=keys,
            dst_k=host_keys,
            src_v_layers=values,
            dst_v=host_values,
            dst_layout_dim=row_bytes * layers,
            **common,
        )
        return
    host_tables = torch.tensor([[layer.data_ptr() for layer in buffer] for buffer in host_pool.buffers])
    to_keys, to_values = host_tables.to(device_pool.device).view(torch.uint64)
    engine.transfer_kv_all_layer(
        src_k_layers=keys, dst_k_layers=to_keys, src_v_layers=values, dst_v_layers=to_values, **common
    )


def _inward(engine: Any, transfer: Transfer) -> None:
    """As `MHATokenToKVPoolHost.load_to_device_per_layer`."""
    device_pool, host_pool, layer = transfer.device_pool, transfer.host_pool, transfer.layers.start
    host_keys, host_values = host_pool.buffers
    keys, values = (layers[layer] for layers in device_pool.components)
    if host_pool.layout is HostLayout.PAGE_FIRST_DIRECT:
        engine.transfer_kv_per_layer_direct_pf_lf(
            src_ptrs=[host_keys, host_values],
            dst_ptrs=[keys, values],
            src_indices=transfer.host_slots,
            dst_indices=transfer.device_slots,
            layer_id=layer,
            page_size=host_pool.page_size,
        )
        return
    row_bytes = device_pool.row_bytes[0]
    slots = {"src_indices": transfer.host_slots, "dst_indices": transfer.device_slots}
    common = {name: on_device(of, device_pool.device) for name, of in slots.items()} | {"item_size": row_bytes}
    if host_pool.layout is HostLayout.PAGE_FIRST:
        engine.transfer_kv_per_layer_pf_lf(
            src_k=host_keys,
            dst_k=keys,
            src_v=host_values,
            dst_v=values,
            layer_id=layer,
            src_layout_dim=row_bytes * device_pool.layers,
            **common,
        )
    else:
        engine.transfer_kv_per_layer(
            src_k=host_keys[layer], dst_k=keys, src_v=host_values[layer], dst_v=values, **common
        )
