"""The KV pool of a CPU engine: it takes memory as it fills. Importing this imports SGLang's memory pools.

A page that is written for the first time costs the step that does it a microsecond or two, thousands of times in a long
prompt. So while the engine has nothing to do, the pages of the slots that are next are made resident.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

AHEAD_TOKENS = 512
"""Tokens that there is resident memory for when the engine has been idle, unless they take more than below."""

AHEAD_BYTES = 16 << 20
"""Bytes that are made resident at a time, at most: the next call waits for it, some milliseconds."""

# MADV_POPULATE_WRITE of <sys/mman.h>, since Linux 5.14; elsewhere the call fails and nothing is lost.
_POPULATE_WRITE = 23
_libc = ctypes.CDLL(None)


class LazyKvPool(MHATokenToKVPool):  # type: ignore[misc]
    """SGLang's pool of keys and values for ordinary attention, not written before a token needs it.

    SGLang zeroes its whole pool when it starts, which makes every page of it resident. The padded slot 0 has to read as
    zero; a fresh page does.
    """

    def _create_buffers_normal(self) -> None:
        key_shape, value_shape = self._kv_buffer_shapes()
        self.k_buffer = [lazy_zeros(key_shape, self.store_dtype) for _ in range(self.layer_num)]
        self.v_buffer = [lazy_zeros(value_shape, self.store_dtype) for _ in range(self.layer_num)]
        self._prepared_slots = 0

    def prepare(self, slots: int) -> None:
        """Have the memory of that many slots resident, the first ones, or of `AHEAD_BYTES` more."""
        buffers = (*self.k_buffer, *self.v_buffer)
        slot_bytes = sum(buffer[0].nbytes for buffer in buffers)
        slots = min(slots, self._prepared_slots + max(1, AHEAD_BYTES // slot_bytes))
        if slots <= self._prepared_slots:
            return
        for buffer in buffers:
            populate(buffer[self._prepared_slots : slots])
        self._prepared_slots = slots


def prepare_next(original: Callable[[Any], Any], scheduler: Any) -> Any:
    """AROUND `Scheduler.on_idle`: have resident memory for the tokens that come next."""
    allocator = scheduler.token_to_kv_pool_allocator
    pool = allocator.get_kvcache()
    if type(pool) is LazyKvPool and not pool.use_hnd:
        pages = allocator.free_pages[: max(1, AHEAD_TOKENS // allocator.page_size)]
        if len(pages):
            pool.prepare((int(pages.max()) + 1) * allocator.page_size)
    return original(scheduler)


def populate(tensor: torch.Tensor) -> None:
    """Make the pages of a tensor without gaps resident, if the system can; what is in them stays."""
    first = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    size = tensor.data_ptr() + tensor.nbytes - first
    _libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), _POPULATE_WRITE)


def lazy_zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return zeros on the CPU, contiguous and aligned to a page, whose pages become resident when they are written.

    Args:
        shape: sizes, with at least one element in all.
        dtype: of the elements.
    """
    size_bytes = math.prod(shape) * dtype.itemsize
    # The mapping belongs to the tensor, which unmaps it when it goes. Private: shared pages would be a file's.
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(*shape)
