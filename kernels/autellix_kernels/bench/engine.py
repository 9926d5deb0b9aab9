"""SGLang's compiled kernels as a contender, called as its host pools call them; only in the benchmark.

They are those of its package `sgl_kernel`. Kernels that a running engine compiles for itself are not among them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from autellix_kernels.layout import HostLayout
from autellix_kernels.pools import DevicePool, HostPool
from autellix_kernels.transfer import Direction, Transfer, Work, on_device

_WORD_BYTES = 8


class EngineKernels:
    """Keys and values of the same shape, or latents.

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

    def knows(self, pool: DevicePool) -> bool:
        """Return whether it copies KV of this kind: rows of whole words without gaps, of values as long as of keys."""
        sizes = {*pool.row_bytes, *pool.slot_strides}
        return len(pool.components) <= 2 and len(sizes) == 1 and min(sizes) % _WORD_BYTES == 0

    def copy(self, transfer: Transfer) -> Work:
        """Copy, in one call for all layers or for one."""
        call = _outward if transfer.direction is Direction.OUT else _inward
        call(_engine(), transfer)
        return Work(launches=1)


@functools.cache
def _engine() -> Any:
    return importlib.import_module("sgl_kernel.kvcacheio")


def _outward(engine: Any, transfer: Transfer) -> None:
    """As `backup_from_device_all_layer` of `MHATokenToKVPoolHost` and `MLATokenToKVPoolHost`."""
    device_pool, host_pool = transfer.device_pool, transfer.host_pool
    if host_pool.layout is HostLayout.PAGE_FIRST_DIRECT:
        engine.transfer_kv_all_layer_direct_lf_pf(
            src_ptrs=[buffer for layers in device_pool.components for buffer in layers],
            dst_ptrs=list(host_pool.buffers),
            src_indices=transfer.device_slots,
            dst_indices=transfer.host_slots,
            page_size=host_pool.page_size,
        )
        return
    row_bytes, layers = device_pool.row_bytes[0], device_pool.layers
    arguments = _named("src{}_layers", _unsigned(device_pool.addresses))
    arguments |= {
        "src_indices": on_device(transfer.device_slots, device_pool.device),
        "dst_indices": on_device(transfer.host_slots, device_pool.device),
        "item_size": row_bytes,
        "num_layers": layers,
    }
    name = "transfer_kv_all_layer" + _kind(device_pool)
    if host_pool.layout is HostLayout.PAGE_FIRST:
        arguments |= _named("dst{}", host_pool.buffers) | {"dst_layout_dim": row_bytes * layers}
        getattr(engine, f"{name}_lf_pf")(**arguments)
    else:
        arguments |= _named("dst{}_layers", _unsigned(_host_table(host_pool, device_pool.device)))
        getattr(engine, name)(**arguments)


def _inward(engine: Any, transfer: Transfer) -> None:
    """As `load_to_device_per_layer` of the same."""
    device_pool, host_pool, layer = transfer.device_pool, transfer.host_pool, transfer.layers.start
    targets = [layers[layer] for layers in device_pool.components]
    if host_pool.layout is HostLayout.PAGE_FIRST_DIRECT:
        engine.transfer_kv_per_layer_direct_pf_lf(
            src_ptrs=list(host_pool.buffers),
            dst_ptrs=targets,
            src_indices=transfer.host_slots,
            dst_indices=transfer.device_slots,
            layer_id=layer,
            page_size=host_pool.page_size,
        )
        return
    row_bytes = device_pool.row_bytes[0]
    arguments = _named("dst{}", targets)
    arguments |= {
        "src_indices": on_device(transfer.host_slots, device_pool.device),
        "dst_indices": on_device(transfer.device_slots, device_pool.device),
        "item_size": row_bytes,
    }
    name = "transfer_kv_per_layer" + _kind(device_pool)
    if host_pool.layout is HostLayout.PAGE_FIRST:
        arguments |= _named("src{}", host_pool.buffers)
        arguments |= {"layer_id": layer, "src_layout_dim": row_bytes * device_pool.layers}
        getattr(engine, f"{name}_pf_lf")(**arguments)
    else:
        getattr(engine, name)(**arguments | _named("src{}", (buffer[layer] for buffer in host_pool.buffers)))


def _kind(pool: DevicePool) -> str:
    """Return what the names of functions for such a pool have in them."""
    return "_mla" if len(pool.components) == 1 else ""


def _named(form: str, components: Iterable[Tensor]) -> dict[str, Any]:
    """Return the components' tensors as arguments: ``src`` of latents, ``src_k`` and ``src_v`` of keys and values."""
    tensors = list(components)
    letters = ("",) if len(tensors) == 1 else ("_k", "_v")
    return {form.format(letter): tensor for letter, tensor in zip(letters, tensors, strict=True)}


_host_tables: WeakKeyDictionary[HostPool, Tensor] = WeakKeyDictionary()


def _host_table(pool: HostPool, device: torch.device) -> Tensor:
    """Return where each layer starts in a pool of layers, ``[components, layers]``; made once, as the engine does."""
    if pool not in _host_tables:
        _host_tables[pool] = torch.tensor([[layer.data_ptr() for layer in buffer] for buffer in pool.buffers]).to(
            device
        )
    return _host_tables[pool]


def _unsigned(addresses: Tensor) -> Tensor:
    """Return a table of addresses as the engine has it."""
    return addresses.view(torch.uint64)
