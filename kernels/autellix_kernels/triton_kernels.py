"""The Triton kernel; importing this imports Triton, which decides here whether kernels are interpreted."""

from __future__ import annotations

import triton
import triton.language as tl

_NUMBERS = [
    "host_address",
    "count",
    "tiles",
    "tiles_per_layer",
    "page_size",
    "device_stride",
    "page_stride",
    "token_stride",
    "layer_stride",
]


# Not specialized on values: no swap waits for a compiler because its list is a multiple of 16 long, or its layer odd.
@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=["device_addresses"])  # type: ignore[untyped-decorator]
def swap_rows(  # type: ignore[no-untyped-def]  # Triton takes annotations for globals
    device_addresses,
    host_address,
    device_slots,
    host_slots,
    count,
    tiles,
    tiles_per_layer,
    page_size,
    device_stride,
    page_stride,
    token_stride,
    layer_stride,
    ROW_WORDS: tl.constexpr,  # noqa: N803  constants of a kernel are written so
    TILE_WORDS: tl.constexpr,  # noqa: N803
    TILE_ROWS: tl.constexpr,  # noqa: N803
    WORD_BYTES: tl.constexpr,  # noqa: N803
    PAIRED: tl.constexpr,  # noqa: N803
    OUT: tl.constexpr,  # noqa: N803
):
    """Copy the rows of some tokens in some layers of a component; any number of programs share the work.

    Args:
        device_addresses: int64 [layers] on the device, where each layer starts.
        host_address: where the first layer starts in memory that the device can reach.
        device_slots: int64 [count] on the device.
        host_slots: likewise.
        count: tokens.
        tiles: of all layers together.
        tiles_per_layer: those of one.
        page_size: tokens in a page of the host.
        device_stride: bytes from a slot to the next on the device.
        page_stride: bytes from a page to the next on the host.
        token_stride: bytes from a token to the next in its page.
        layer_stride: bytes from a layer to the next on the host.
        ROW_WORDS: words of a row.
        TILE_WORDS: words of a tile, a power of two, not less.
        TILE_ROWS: tokens of a tile, a power of two.
        WORD_BYTES: 1, 2, 4 or 8; all addresses and strides are multiples of it.
        PAIRED: they are multiples of 16, and words have 8 bytes.
        OUT: the device is read and the host written, else the other way.
    """
    if WORD_BYTES == 8:
        word = tl.int64
    elif WORD_BYTES == 4:
        word = tl.int32
    elif WORD_BYTES == 2:
        word = tl.int16
    else:
        word = tl.int8
    columns = tl.arange(0, TILE_WORDS)[None, :]
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        layer = tile // tiles_per_layer
        places = tile % tiles_per_layer * TILE_ROWS + tl.arange(0, TILE_ROWS)
        there = places < count
        device_slot = tl.load(device_slots + places, mask=there, other=0)
        host_slot = tl.load(host_slots + places, mask=there, other=0)
        device = tl.load(device_addresses + layer) + device_slot * device_stride
        host = host_address + layer.to(tl.int64) * layer_stride
        host += host_slot // page_size * page_stride + host_slot % page_size * token_stride
        device_words = device.to(tl.pointer_type(word))[:, None] + columns
        host_words = host.to(tl.pointer_type(word))[:, None] + columns
        if PAIRED:
            # Triton cannot tell this of addresses that it is given as numbers.
            device_words = tl.max_contiguous(tl.multiple_of(device_words, (16, 16)), (1, TILE_WORDS))
            host_words = tl.max_contiguous(tl.multiple_of(host_words, (16, 16)), (1, TILE_WORDS))
        mask = there[:, None] & (columns < ROW_WORDS)
        if OUT:
            tl.store(host_words, tl.load(device_words, mask=mask), mask=mask)
        else:
            tl.store(device_words, tl.load(host_words, mask=mask), mask=mask)
