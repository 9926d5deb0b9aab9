"""KV in host memory, copied by our swap kernels; importing this imports SGLang.

SGLang's host pool keeps its memory, its slots and its place in HiCache; the two copies are ours. On a GPU they take
their turn in the stream that SGLang makes current, so that layers still come in beside the step that needs them. On a
CPU, where SGLang has no copies at all, they are plain indexing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from autellix_kernels import DevicePool, Direction, HostLayout, HostPool, PageSums, Route, SwapError
from autellix_kernels.errors import LayoutMismatch
from autellix_kernels.link import fastest_s
from autellix_kernels.select import SWITCH
from sglang.srt.mem_cache.host_memory import available_host_memory_bytes
from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope, ranks_per_host
from sglang.srt.mem_cache.pool_host.common import _CUDA_HOST_REGISTERED_RANGES_ATTR
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost

from autellix_sdk.errors import ConfigurationError
from autellix_server.sglang_plugin.guard import refuse
from autellix_server.sglang_plugin.swap_check import Arrival, SwapCheck
from autellix_server.sglang_plugin.swap_cost import LoadCost

_log = logging.getLogger(__name__)

LAYOUTS = tuple(map(str, HostLayout))
"""Orders of the host's memory, SGLang's ``--hicache-mem-layout``, that our kernels copy."""

ENGINE = "engine"
"""What `SWITCH` is for SGLang's own copies, and what is shown for a kernel where these serve."""

_TELLING = 4
"""How much longer than a page the larger load has to take that the cost of loads is measured by: its bytes, not its
launches, have to tell."""

_SUMMED_TOKENS = 256
"""Tokens by which it is measured what a check takes."""


class KernelHostPool(MHATokenToKVPoolHost):  # type: ignore[misc]
    """Host pool of a model whose keys and values have the same shape per token.

    Lists of slots are int64, those of the host in whole pages, each page's one after another. They are checked once for
    an operation. A list on a GPU is not looked into, since the scheduler would wait for the GPU: it comes from the free
    lists of SGLang's allocators, the host's from `alloc` of this very pool, which hand out no slot twice.

    Where our kernels cannot serve, or shall not, SGLang's own copies do; on a CPU the process ends with the reason.
    """

    def __init__(self, buffer_info: Any, *args: Any, **options: Any) -> None:
        """Allocate the pool as SGLang does, pinned for a GPU.

        On a CPU all of this rank's share of the available memory may be taken: unlike beside a GPU, the device pool is
        in it already.
        """
        self._on_cpu = buffer_info.device.type == "cpu"
        self._check: SwapCheck | None = None
        self._sums: PageSums | None = None
        self._routes: dict[Direction, Route] | None = None
        self._prepared: tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]] | None = None
        self._set_aside = f"{SWITCH} says so" if os.environ.get(SWITCH) == ENGINE else None
        if self._on_cpu and self._set_aside:
            refuse(f"{SWITCH} is {ENGINE}: SGLang has no copies of its own for a CPU; unset it")
        with _available_memory(self._on_cpu) as more:
            super().__init__(buffer_info, *args, **options | more)
        self._kv = self._pools()

    def init_kv_buffer(self) -> Any:
        """Allocate the memory in the layout asked for; on a CPU end the process when it is none of `LAYOUTS`."""
        if self._on_cpu and self.layout not in LAYOUTS:
            refuse(f"--hicache-mem-layout is {self.layout}: on a CPU choose one of: {', '.join(LAYOUTS)}")
        return super().init_kv_buffer()

    def start(self, io_backend: str, check: SwapCheck) -> None:
        """Choose kernels, compiling and measuring on a GPU, and check pages from now on; before the first request.

        Args:
            io_backend: SGLang's; with ``kernel`` lists of slots are on the GPU.
            check: decides which pages are checked.
        """
        self._choose(io_backend)
        if self._kv is not None:
            self._check, self._sums = check, PageSums(*self._kv)

    def load_cost(self, io_backend: str) -> LoadCost | None:
        """Measure what a load takes, its check included, by copying zeros to where zeros are; before the first request.

        Args:
            io_backend: SGLang's.

        Returns:
            `None` where SGLang's own layouts are in use, or the pools are too small to tell.
        """
        if self._kv is None:
            return None
        device_kv, host_kv = self._kv
        few = self.page_size
        # The first page of the device is left alone: padding is read from there.
        most = min(device_kv.slots - few, host_kv.slots) // few * few
        if most <= few:
            return None
        if self._routes is not None:
            # The kernel for the way out is compiled now rather than when the first KV goes.
            self.backup_from_device_all_layer(None, *self._first_slots(few, io_backend), io_backend)
        many, many_s = few, (few_s := self._load_s(few, io_backend))
        while many < most and many_s < _TELLING * few_s:
            many = min(_TELLING * many, most)
            many_s = self._load_s(many, io_backend)
        loaded = LoadCost.of_two((few, few_s), (many, many_s))
        return LoadCost(loaded.fixed_s, loaded.token_s + self._check_token_s(min(_SUMMED_TOKENS, many)))

    def to_json(self) -> dict[str, dict[str, str | None]]:
        """Return for each direction which kernel copies, and why."""
        if self._routes is None:
            return {str(direction): {"kernel": ENGINE, "why": self._set_aside} for direction in Direction}
        return {
            str(direction): {"kernel": route.choice.kernel, "why": route.choice.why}
            for direction, route in self._routes.items()
        }

    def alloc(self, need_size: int) -> torch.Tensor | None:
        """Hand out slots, whose pages nobody has summed yet."""
        slots: torch.Tensor | None = super().alloc(need_size)
        if slots is not None and self._check is not None and self._check.share:
            self._check.forget(self._pages(slots))
        return slots

    def clear(self) -> None:
        """Take back all slots."""
        super().clear()
        if self._check is not None:
            self._check.forget_all()

    def backup_from_device_all_layer(
        self, device_pool: Any, host_indices: torch.Tensor, device_indices: torch.Tensor, io_backend: str
    ) -> None:
        """Copy device slots to host slots, in every layer; on a GPU in the current stream, on a CPU done on return."""
        route = self._route(Direction.OUT, io_backend)
        if route is None:
            super().backup_from_device_all_layer(device_pool, host_indices, device_indices, io_backend)
        else:
            route.copy(*route.prepare(device_indices, host_indices), range(self.layer_num))
        self._sum(host_indices, device_indices)

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
        """Copy host slots to device slots, in one layer, as above. Layers of other pools are none of ours."""
        if not is_draft and not 0 <= layer_id < self.target_layer_num:
            return
        route = self._route(Direction.IN, io_backend)
        if route is None:
            lists = host_indices, device_indices
            super().load_to_device_per_layer(device_pool, *lists, layer_id, io_backend, is_draft=is_draft)
            return
        # SGLang comes with the same two lists for every layer of an operation.
        if self._prepared is None or self._prepared[0] is not host_indices or self._prepared[1] is not device_indices:
            self._prepared = host_indices, device_indices, route.prepare(device_indices, host_indices)
        route.copy(*self._prepared[2], range(layer_id, layer_id + 1))

    def changed_pages(self, host_indices: torch.Tensor) -> int:
        """Return how many pages are not as they went out, of those that are checked.

        Args:
            host_indices: slots in host memory that nothing is being written to.
        """
        if self._check is None or self._sums is None:
            return 0
        pages = self._check.known(self._pages(host_indices))
        if not pages:
            return 0
        return len(self._check.compare(dict(zip(pages, self._sums.of_host(torch.tensor(pages)).tolist(), strict=True))))

    def _pools(self) -> tuple[DevicePool, HostPool] | None:
        """Return what kernels have to know; `None`, having said why, where they cannot serve."""
        dtype = self.device_k_buffers[0].dtype
        try:
            # Rows are bytes: the host may call a type of eight bits by its name and the device not.
            host = HostPool((self.k_buffer.view(dtype), self.v_buffer.view(dtype)), self.layout, self.page_size)
            return DevicePool.mha(self.device_k_buffers, self.device_v_buffers), host
        except LayoutMismatch as error:
            if self._on_cpu:
                refuse(f"KV cannot be kept in host memory: {error}; leave out --host-kv-gb")
            self._set_aside = str(error)
            return None

    def _choose(self, io_backend: str) -> None:
        if self._kv is None or self._set_aside is not None:
            return
        # SGLang pins a pool that is very large in parts.
        parts: Sequence[object] = getattr(self.kv_buffer, _CUDA_HOST_REGISTERED_RANGES_ATTR, ())
        by_address = io_backend == "kernel" or len(parts) > 1
        try:
            self._routes = {side: Route(*self._kv, side, by_address=by_address) for side in Direction}
        except (SwapError, ConfigurationError) as error:
            otherwise = "" if self._on_cpu else f"; {SWITCH}={ENGINE} has SGLang copy it"
            refuse(f"KV cannot be copied to host memory: {error}{otherwise}")
        slow = [route.choice for route in self._routes.values() if route.choice.kernel == "reference"]
        if slow and not self._on_cpu and not os.environ.get(SWITCH):
            self._routes, self._set_aside = None, slow[0].why

    def _route(self, direction: Direction, io_backend: str) -> Route | None:
        """Return our way of copying; `None` where SGLang copies."""
        if self._routes is None and self._set_aside is None:
            self._choose(io_backend)
        return None if self._routes is None else self._routes[direction]

    def _load_s(self, tokens: int, io_backend: str) -> float:
        """Return what it takes to load the first slots, which are made zeros, in seconds."""
        assert self._kv is not None
        host_kv = self._kv[1]
        for component in range(len(host_kv.buffers)):
            for layer in range(host_kv.layers):
                host_kv.rows(component, layer)[: tokens // self.page_size].zero_()
        lists = self._first_slots(tokens, io_backend)

        def load() -> None:
            for layer in range(self.target_layer_num):
                self.load_to_device_per_layer(None, *lists, layer, io_backend)

        return fastest_s(load, self.device_k_buffers[0].device)

    def _check_token_s(self, tokens: int) -> float:
        """Return what checks take for each token that is loaded, in seconds, by summing the first pages."""
        if self._check is None or self._sums is None:
            return 0.0
        sums, pages = self._sums, torch.arange(max(1, tokens // self.page_size))
        summed_s = fastest_s(lambda: sums.of_host(pages), torch.device("cpu"))
        return float(summed_s / (len(pages) * self.page_size) * self._check.share)

    def _first_slots(self, tokens: int, io_backend: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return slots of the host and of the device, its first page left out, where a backend has its lists."""
        where = self.device_k_buffers[0].device if io_backend == "kernel" else "cpu"
        host_slots, slots = (torch.arange(first, first + tokens).to(where) for first in (0, self.page_size))
        return host_slots, slots

    def _pages(self, host_indices: torch.Tensor) -> list[int]:
        return [int(page) for page in (host_indices[:: self.page_size] // self.page_size).tolist()]

    def _sum(self, host_indices: torch.Tensor, device_indices: torch.Tensor) -> None:
        """Have some of the pages that go out summed on the device, after their copy in the same stream."""
        if self._check is None or self._sums is None:
            return
        places = self._check.sample(len(host_indices) // self.page_size)
        if not places:
            return
        host, device = (
            torch.cat([slots[place * self.page_size : (place + 1) * self.page_size] for place in places])
            for slots in (host_indices, device_indices)
        )
        try:
            sums = self._sums.of_device(device)
        except torch.OutOfMemoryError:
            _log.warning("the GPU has no memory to sum %d pages; they are not checked", len(places))
            return
        self._check.expect(_landing(host[:: self.page_size] // self.page_size, sums))


def host_pool_class(original: Callable[[Any], type], buffer_info: Any) -> type:
    """AROUND `get_mha_host_pool_cls`: return our pool; for KV that it does not know SGLang's, which no CPU can use."""
    stock = original(buffer_info)
    on_cpu = buffer_info.device.type == "cpu"
    if stock is MHATokenToKVPoolHost and (on_cpu or (buffer_info.device.type == "cuda" and torch.version.cuda)):
        return KernelHostPool
    if on_cpu:
        refuse(f"KV in a {stock.__name__} cannot be kept in host memory on a CPU; leave out --host-kv-gb")
    return stock


def pool_of(tree: Any) -> KernelHostPool | None:
    """Return the host pool of a prefix tree's KV; `None` if it is SGLang's."""
    pool = tree.cache_controller.mem_pool_host.anchor_entry.host_pool
    return pool if isinstance(pool, KernelHostPool) else None


def smallest(tree: Any, numbers: Sequence[int]) -> list[int]:
    """Return the smallest that any rank of the engine has of each number; every rank has to ask."""
    everybody = torch.tensor(numbers, dtype=torch.int64)
    tree._all_reduce(everybody, torch.distributed.ReduceOp.MIN)  # noqa: SLF001  (there is no other way)
    return [int(number) for number in everybody.tolist()]


@contextmanager
def _available_memory(on_cpu: bool) -> Iterator[dict[str, Any]]:
    """Have a pool's memory taken from what there is; yields further options for SGLang's pool."""
    if not on_cpu:
        yield {}
        return
    with host_memory_budget_scope(available_host_memory_bytes(allow_cgroup_fallback=True) // ranks_per_host()):
        yield {"pin_memory": False}


def _landing(pages: torch.Tensor, sums: torch.Tensor) -> Arrival:
    """Return what waits until the current stream has the numbers of pages and their sums, and returns them."""
    landed = [_landed(tensor) for tensor in (pages, sums)]
    done = None
    if sums.is_cuda:
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(sums.device))

    def arrive() -> tuple[list[int], list[int]]:
        if done is not None:
            done.synchronize()
        numbers, values = (tensor.tolist() for tensor in landed)
        return numbers, values

    return arrive


def _landed(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in host memory, where the current stream will have brought it."""
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
