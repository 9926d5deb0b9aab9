"""KV in host memory where the device is a CPU too; importing this imports SGLang.

SGLang's host pool pins its memory through CUDA and copies with compiled kernels. This one does the same with plain
indexing, so that KV leaves the engine's pool and comes back on any machine. Elsewhere the engine's own pool stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from sglang.srt.mem_cache.host_memory import available_host_memory_bytes
from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope, ranks_per_host
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost

from autellix_server.sglang_plugin.guard import refuse

LAYOUTS = ("layer_first", "page_first", "page_first_direct", "page_head")
"""Orders of the host's memory, SGLang's ``--hicache-mem-layout``, that the CPU pool can have."""


class CpuHostPool(MHATokenToKVPoolHost):  # type: ignore[misc]
    """Host pool of a model whose keys and values have the same shape per token, for a device pool in the same memory.

    The two copies below are all that touches KV; a faster one has to keep their promises. Slots are token indices,
    one-dimensional int64 tensors on the CPU, as many on the host as on the device; those of the host come in whole
    pages. Per layer the device holds keys and values of shape ``[slots, heads, head_dim]`` each.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Allocate the pool.

        All of this rank's share of the available memory may be taken: unlike beside a GPU, the device pool is in it
        already.
        """
        with host_memory_budget_scope(available_host_memory_bytes(allow_cgroup_fallback=True) // ranks_per_host()):
            super().__init__(*args, pin_memory=False, **options)

    def init_kv_buffer(self) -> Any:
        """Allocate the memory in the layout asked for; end the process when it is none of `LAYOUTS`."""
        if self.layout not in LAYOUTS:
            refuse(f"--hicache-mem-layout is {self.layout}: on a CPU choose one of: {', '.join(LAYOUTS)}")
        return super().init_kv_buffer()

    def backup_from_device_all_layer(
        self, device_pool: Any, host_indices: torch.Tensor, device_indices: torch.Tensor, io_backend: str
    ) -> None:
        """Copy device slots to host slots, in every layer; done on return."""
        pages, offsets = self._places(host_indices)
        for layer in range(self.layer_num):
            for host, device in self._layer(layer):
                host[pages, offsets] = device[device_indices]

    def load_to_device_per_layer(
        self,
        device_pool: Any,
        host_indices: torch.Tensor,
        device_indices: torch.Tensor,
        layer_id: int,
        io_backend: str,
        *,
        is_draft: bool = False,
    ) -> None:
        """Copy host slots to device slots, in one layer; done on return. Layers of other pools are none of ours."""
        if not is_draft and not 0 <= layer_id < self.target_layer_num:
            return
        pages, offsets = self._places(host_indices)
        for host, device in self._layer(layer_id):
            device[device_indices] = host[pages, offsets]

    def _places(self, host_indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return page and place in the page of every host slot."""
        return host_indices // self.page_size, host_indices % self.page_size

    def _layer(self, layer: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield host and device memory of a layer, keys and then values."""
        yield self._pages_of(self.k_buffer, layer), self.device_k_buffers[layer]
        yield self._pages_of(self.v_buffer, layer), self.device_v_buffers[layer]

    def _pages_of(self, buffer: torch.Tensor, layer: int) -> torch.Tensor:
        """Return a layer of the host's memory as a view of shape ``[pages, page_size, heads, head_dim]``."""
        pages = (self.page_num, self.page_size)
        match self.layout:
            case "layer_first":
                return buffer[layer].unflatten(0, pages)
            case "page_first":
                return buffer[:, layer].unflatten(0, pages)
            case "page_first_direct":
                return buffer[:, layer]
            case _:
                return buffer[:, :, :, layer].transpose(1, 2)


def host_pool_class(original: Callable[[Any], type], buffer_info: Any) -> type:
    """AROUND `get_mha_host_pool_cls`: return the CPU pool; end the process for KV that it does not know."""
    stock = original(buffer_info)
    if stock is not MHATokenToKVPoolHost:
        refuse(f"KV in a {stock.__name__} cannot be kept in host memory on a CPU; leave out --host-kv-gb")
    return CpuHostPool
