"""A swap as one Triton kernel that reads one pool and writes the other, host memory included.

The kernel follows addresses, not tensors: of every layer where it starts in either pool, and strides. Pinned host
memory has addresses that a GPU can follow. Without a GPU the same kernel runs in Triton's interpreter, for tests.

A program copies tiles of some tokens by all words of a row. Words are as wide as all addresses, strides and rows allow;
16 bytes are two words of 8, which Triton makes one access of.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from autellix_kernels.layout import WIDEST_ACCESS
from autellix_kernels.transfer import Direction, Geometry, Transfer, Work, on_device

TILE_BYTES = 8192
"""Bytes that a program has on their way at a time, if a row is not longer."""

INTERPRETED_TILE_BYTES = 1 << 15
"""The same in the interpreter, where every tile costs a millisecond."""

PROGRAMS_PER_PROCESSOR = 2
"""Programs for each processor of the GPU: enough to fill a link, and the step beside them has room."""

_WORD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Tile:
    """What a program copies at a time.

    Attributes:
        word_bytes: bytes of a word.
        paired: two words of 8 bytes are one access.
        row_words: words of a row.
        words: words of a tile, the next power of two.
        rows: tokens of a tile, a power of two.
    """

    word_bytes: int
    paired: bool
    row_words: int
    words: int
    rows: int

    @classmethod
    def of(cls, geometry: Geometry, tile_bytes: int) -> Tile:
        """Return the tile for a component, of `tile_bytes` unless a row is longer."""
        word_bytes = min(geometry.access, _WORD_BYTES)
        row_words = geometry.row_bytes // word_bytes
        words = 1 << (row_words - 1).bit_length()
        rows = max(1, tile_bytes // (words * word_bytes))
        return cls(word_bytes, geometry.access == WIDEST_ACCESS, row_words, words, 1 << (rows.bit_length() - 1))


class TritonSwap:
    """Gathers and scatters in Triton."""

    name = "triton"
    slots_on_host = False

    def refusal(self, device: torch.device) -> str | None:
        """Return why it cannot run: no Triton, or neither a GPU nor the interpreter."""
        if importlib.util.find_spec("triton") is None:
            return "there is no triton"
        if device.type != "cuda" and not interpreted():
            return "there is no GPU; for a test of the kernel set TRITON_INTERPRET=1 before anything is imported"
        return None

    def copy(self, transfer: Transfer) -> Work:
        """Copy, one launch for each component."""
        device = transfer.device_pool.device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            return self._copy(transfer)

    def _copy(self, transfer: Transfer) -> Work:
        from autellix_kernels.triton_kernels import swap_rows

        device_pool, layers = transfer.device_pool, transfer.layers
        device_slots, host_slots = (
            on_device(slots, device_pool.device) for slots in (transfer.device_slots, transfer.host_slots)
        )
        for component in range(len(device_pool.components)):
            geometry = Geometry.of(transfer, component)
            tile = Tile.of(geometry, INTERPRETED_TILE_BYTES if interpreted() else TILE_BYTES)
            tiles_per_layer = -(-transfer.count // tile.rows)
            tiles = tiles_per_layer * len(layers)
            swap_rows[(min(tiles, _programs(device_pool.device)),)](
                device_pool.addresses[component, layers.start : layers.stop],
                geometry.host_address,
                device_slots,
                host_slots,
                transfer.count,
                tiles,
                tiles_per_layer,
                transfer.host_pool.page_size,
                geometry.device_stride,
                geometry.page_stride,
                geometry.token_stride,
                geometry.layer_stride,
                ROW_WORDS=tile.row_words,
                TILE_WORDS=tile.words,
                TILE_ROWS=tile.rows,
                WORD_BYTES=tile.word_bytes,
                PAIRED=tile.paired,
                OUT=transfer.direction is Direction.OUT,
            )
        return Work(launches=len(device_pool.components))


def interpreted() -> bool:
    """Return whether kernels are interpreted rather than compiled."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return PROGRAMS_PER_PROCESSOR * int(torch.cuda.get_device_properties(device).multi_processor_count)
