"""Pools of every kind, small, filled with noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from autellix_kernels.layout import HostLayout
from autellix_kernels.pools import DevicePool, HostPool

DTYPES = (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8)


@dataclass(frozen=True, slots=True)
class Kind:
    """The shape of a model's KV: of each component heads and elements of a head."""

    name: str
    components: tuple[tuple[int, int], ...]
    gap: int = 0
    """Elements between slots on the device."""


KINDS = (
    Kind("gqa", ((2, 16), (2, 16))),
    Kind("mha-values-narrower", ((3, 8), (3, 5))),
    Kind("mla", ((1, 40),)),
    Kind("one-element", ((1, 1), (1, 1))),
    Kind("odd", ((3, 7),)),
    Kind("gaps-between-slots", ((2, 8), (2, 8)), gap=32),
)


def pools(
    kind: Kind,
    layout: HostLayout | str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    page_size: int = 1,
    slots: int = 24,
    pages: int = 24,
    layers: int = 2,
    device: str = "cpu",
) -> tuple[DevicePool, HostPool]:
    """Return a device pool and a host pool beside it, every byte of both by chance."""
    device_pool = DevicePool(
        [[_device(slots, heads, dim, kind.gap, dtype, device) for _ in range(layers)] for heads, dim in kind.components]
    )
    host_pool = HostPool.beside(device_pool, layout, pages=pages, page_size=page_size)
    for buffer in host_pool.buffers:
        buffer.view(torch.uint8).random_(0, 256)
    return device_pool, host_pool


def _device(slots: int, heads: int, dim: int, gap: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    whole = torch.randint(0, 256, (slots, (heads * dim + gap) * dtype.itemsize), dtype=torch.uint8)
    return whole.view(dtype).to(device)[:, : heads * dim].unflatten(1, (heads, dim))


def memory(pool: DevicePool | HostPool) -> list[bytes]:
    """Return every byte of a pool, what lies between its slots included, by component and layer."""
    buffers: Sequence[torch.Tensor]
    if isinstance(pool, DevicePool):
        # Storage shared by layers would be listed once for each, which does no harm.
        buffers = [buffer for layers in pool.components for buffer in layers]
    else:
        buffers = pool.buffers
    return [_storage(buffer) for buffer in buffers]


def _storage(buffer: torch.Tensor) -> bytes:
    storage = buffer.untyped_storage()
    whole = torch.empty(0, dtype=torch.uint8, device=buffer.device).set_(storage)
    return bytes(whole.cpu().numpy())
