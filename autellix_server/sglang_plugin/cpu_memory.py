"""The KV pool of a CPU engine: it takes memory as it fills. Importing this imports SGLang's memory pools."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool


class LazyKvPool(MHATokenToKVPool):  # type: ignore[misc]
    """SGLang's pool of keys and values for ordinary attention, not written before a token needs it.

    SGLang zeroes its whole pool when it starts, which makes every page of it resident. The padded slot 0 has to read as
    zero; a fresh page does.
    """

    def _create_buffers_normal(self) -> None:
        key_shape, value_shape = self._kv_buffer_shapes()
        self.k_buffer = [lazy_zeros(key_shape, self.store_dtype) for _ in range(self.layer_num)]
        self.v_buffer = [lazy_zeros(value_shape, self.store_dtype) for _ in range(self.layer_num)]


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
