"""Shapes of KV that the benchmark swaps, and pools of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from autellix_kernels.layout import HostLayout
from autellix_kernels.pools import DevicePool, HostPool
from autellix_kernels.transfer import Direction, Transfer


@dataclass(frozen=True, slots=True)
class Model:
    """The KV of a model on one GPU.

    Attributes:
        name: as results call it.
        layers: how many there are.
        components: for each, heads and elements of a head.
        dtype: of the KV.
    """

    name: str
    layers: int
    components: tuple[tuple[int, int], ...]
    dtype: torch.dtype = torch.bfloat16

    @property
    def component_bytes(self) -> list[int]:
        """Bytes of a token in each component, all layers."""
        return [self.layers * heads * dim * int(self.dtype.itemsize) for heads, dim in self.components]

    @property
    def token_bytes(self) -> int:
        """Bytes of a token's KV."""
        return sum(self.component_bytes)


_GQA = ((8, 128), (8, 128))

MODELS = (
    Model("llama-3.1-8b", 32, _GQA),
    Model("llama-3.1-8b-fp8", 32, _GQA, torch.float8_e4m3fn),
    Model("llama-3.1-70b-tp4", 80, ((2, 128), (2, 128))),
    Model("qwen3-32b", 64, _GQA),
    Model("deepseek-v3", 61, ((1, 576),)),
)
"""GQA in two types and with rows made short by four GPUs, a larger one, and MLA."""


def pools(
    model: Model, layout: HostLayout, *, blocks: int, page_size: int, device: torch.device
) -> tuple[DevicePool, HostPool]:
    """Return a device pool and a host pool with room for the blocks that go out and as many others that come in."""
    slots = 2 * blocks * page_size
    device_pool = DevicePool(
        [
            [torch.zeros(slots, heads, dim, dtype=model.dtype, device=device) for _ in range(model.layers)]
            for heads, dim in model.components
        ]
    )
    return device_pool, HostPool.beside(device_pool, layout, pages=2 * blocks, page_size=page_size)


def transfers(device_pool: DevicePool, host_pool: HostPool, blocks: int, direction: Direction) -> list[Transfer]:
    """Return the swap of a call: one transfer of all layers out, or one for each layer in.

    Its blocks are whole pages in any order, as a pool has them after a while; always the same, and others out than in,
    so that both can happen at once.
    """
    chance, page_size = random.Random(blocks), host_pool.page_size
    places = torch.arange(page_size)
    mine = slice(None, blocks) if direction is Direction.OUT else slice(blocks, None)
    device_slots, host_slots = (
        (torch.tensor(chance.sample(range(2 * blocks), 2 * blocks)[mine])[:, None] * page_size + places).flatten()
        for _ in range(2)
    )
    layers = range(device_pool.layers)
    parts = [layers] if direction is Direction.OUT else [range(layer, layer + 1) for layer in layers]
    return [Transfer(device_pool, host_pool, device_slots, host_slots, part, part.start, direction) for part in parts]
