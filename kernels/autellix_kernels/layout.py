"""Where the KV of a token lies, in bytes; integers alone, no tensors.

A pool has one or more *components*: keys and values of MHA and GQA are two, the latent vector of MLA is one. In a layer
of a component every token has one *row*: `heads` times `dim` elements that are adjacent. Kernels move rows of bytes and
never look at elements, so that a type is no more to them than its size.

The device has a buffer for each layer of a component, in which the row of a slot is at `slot * stride`. The host has
one buffer for all layers of a component, in one of the orders of `HostLayout`; three strides say which.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PAGE_SIZES = range(1, 65)
"""Tokens that a page of the host may have."""

WIDEST_ACCESS = 16
"""Bytes that a thread of a GPU loads or stores at most in one instruction."""


class HostLayout(StrEnum):
    """Order of the host's memory, SGLang's ``--hicache-mem-layout``, outermost first."""

    LAYER_FIRST = "layer_first"
    """Layer, slot, head, element."""

    PAGE_FIRST = "page_first"
    """Slot, layer, head, element: all layers of a token are adjacent."""

    PAGE_FIRST_DIRECT = "page_first_direct"
    """Page, layer, place in the page, head, element: all layers of a page are adjacent, a layer's tokens within it."""


@dataclass(frozen=True, slots=True)
class HostStrides:
    """Bytes between neighbours in a component's buffer on the host.

    A row starts at the sum of its page, its place in the page and its layer, each times the stride of that name.

    Attributes:
        page: from a page to the next.
        token: from a token to the next in its page.
        layer: from a layer to the next.
    """

    page: int
    token: int
    layer: int

    def offset(self, slot: int, layer: int, page_size: int) -> int:
        """Return where the row of a slot starts in a layer."""
        return slot // page_size * self.page + slot % page_size * self.token + layer * self.layer


def host_shape(layout: HostLayout, *, layers: int, pages: int, page_size: int, heads: int, dim: int) -> tuple[int, ...]:
    """Return the shape of a component's buffer on the host, as SGLang allocates it."""
    match layout:
        case HostLayout.LAYER_FIRST:
            return (layers, pages * page_size, heads, dim)
        case HostLayout.PAGE_FIRST:
            return (pages * page_size, layers, heads, dim)
        case HostLayout.PAGE_FIRST_DIRECT:
            return (pages, layers, page_size, heads, dim)


def host_extent(layout: HostLayout, shape: tuple[int, ...], page_size: int) -> tuple[int, int] | None:
    """Return layers and slots of a component's buffer, the inverse of `host_shape`; `None` where that has no answer.

    Args:
        layout: what the buffer is said to have.
        shape: of the buffer.
        page_size: tokens in a page.
    """
    dimensions = 5 if layout is HostLayout.PAGE_FIRST_DIRECT else 4
    if len(shape) != dimensions:
        return None
    match layout:
        case HostLayout.LAYER_FIRST:
            layers, slots = shape[0], shape[1]
        case HostLayout.PAGE_FIRST:
            slots, layers = shape[0], shape[1]
        case HostLayout.PAGE_FIRST_DIRECT:
            if shape[2] != page_size:
                return None
            layers, slots = shape[1], shape[0] * page_size
    return (layers, slots) if slots % page_size == 0 else None


def host_strides(layout: HostLayout, *, layers: int, slots: int, page_size: int, row_bytes: int) -> HostStrides:
    """Return the strides of a component's buffer on the host, which has no gaps.

    Args:
        layout: order of the memory.
        layers: how many there are.
        slots: tokens that the pool has room for, whole pages.
        page_size: tokens in a page.
        row_bytes: bytes of a token in a layer.
    """
    match layout:
        case HostLayout.LAYER_FIRST:
            return HostStrides(page=page_size * row_bytes, token=row_bytes, layer=slots * row_bytes)
        case HostLayout.PAGE_FIRST:
            return HostStrides(page=page_size * layers * row_bytes, token=layers * row_bytes, layer=row_bytes)
        case HostLayout.PAGE_FIRST_DIRECT:
            return HostStrides(page=page_size * layers * row_bytes, token=row_bytes, layer=page_size * row_bytes)


def access_bytes(*quantities: int) -> int:
    """Return the widest access, 1 to 16 bytes, that divides all addresses, strides and sizes given."""
    width = WIDEST_ACCESS
    while any(quantity % width for quantity in quantities):
        width //= 2
    return width
