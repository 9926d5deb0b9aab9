"""Sums of pages: one number for all bytes that a page of KV has, the same wherever the page lies.

A page's words, of 4 bytes where rows have whole words of that size, are multiplied by odd weights and added modulo
2^64. A weight is that of a word's place in its row times that of the row's component, layer and place in the page; all
are drawn with one seed, so that they are the same in every process.

A change of any one word is always seen: an odd number times a difference of less than 2^32 is no multiple of 2^64.
Changes of several words, or words and rows that changed places, are overlooked when their weighted differences happen
to cancel, by chance once in 2^31 or less. It is no protection from somebody who knows the weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autellix_kernels.pools import DevicePool, HostPool
from autellix_kernels.transfer import on_device

_WORDS = {4: torch.int32, 2: torch.int16, 1: torch.int8}
_SEED = 20_240_914

_Rows = Callable[[int, int], Tensor]
"""Returns the bytes of a layer of a component, of all pages: uint8 ``[..., row_bytes]`` without gaps."""


class PageSums:
    """Sums of the pages of two pools between which KV is swapped, by plain torch operations.

    Args:
        device_pool: KV on the device; read.
        host_pool: KV in host memory, with rows of the same size; read.
    """

    def __init__(self, device_pool: DevicePool, host_pool: HostPool) -> None:
        self._device_pool, self._host_pool = device_pool, host_pool
        noise = torch.Generator().manual_seed(_SEED)
        self._words = [_WORDS[next(size for size in _WORDS if row % size == 0)] for row in device_pool.row_bytes]
        columns = [
            _odd((row // word.itemsize,), noise) for row, word in zip(device_pool.row_bytes, self._words, strict=True)
        ]
        rows = _odd((len(columns), device_pool.layers, host_pool.page_size), noise)
        # Weights are where the words are: on a GPU the sum of its pages takes nothing from the host.
        self._weights = {
            device: ([column.to(device) for column in columns], rows.to(device))
            for device in {device_pool.device, torch.device("cpu")}
        }

    def of_device(self, slots: Tensor) -> Tensor:
        """Return the sums of pages on the device; on a GPU they are there when the current stream has got there.

        Args:
            slots: int64 ``[pages * page_size]`` in host memory or on the device: each page's slots one after another.

        Returns:
            int64 ``[pages]`` on the device.
        """
        pool = self._device_pool
        slots = on_device(slots, pool.device)
        return self._sums(
            len(slots) // self._host_pool.page_size,
            pool.device,
            lambda component, layer: pool.rows(component, layer)[slots],
        )

    def of_host(self, pages: Tensor) -> Tensor:
        """Return the sums of pages in host memory as they are now, int64 ``[pages]`` in host memory.

        Args:
            pages: int64 ``[pages]`` in host memory, numbers of pages.
        """
        pool = self._host_pool
        return self._sums(len(pages), torch.device("cpu"), lambda component, layer: pool.rows(component, layer)[pages])

    def _sums(self, pages: int, device: torch.device, rows: _Rows) -> Tensor:
        columns, row_weights = self._weights[device]
        sums = torch.zeros(pages, dtype=torch.int64, device=device)
        for component, (column, word) in enumerate(zip(columns, self._words, strict=True)):
            for layer in range(self._device_pool.layers):
                words = rows(component, layer).view(word).view(pages, -1, len(column))
                sums += ((words * column).sum(-1) * row_weights[component, layer]).sum(-1)
        return sums


def _odd(shape: tuple[int, ...], noise: torch.Generator) -> Tensor:
    """Return odd numbers of 64 bits."""
    return torch.randint(-(1 << 63), (1 << 63) - 1, shape, generator=noise) | 1
