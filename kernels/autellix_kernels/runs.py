"""Tokens whose KV is adjacent on both sides are one copy: lists of slots become lists of copies.

Everything here is arithmetic with addresses, in host memory; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from autellix_kernels.layout import HostLayout
from autellix_kernels.pools import HostPool
from autellix_kernels.transfer import Direction, Transfer


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Runs of adjacent bytes, each an entry of three int64 ``[runs]`` in host memory.

    Attributes:
        targets: addresses to write to.
        sources: addresses to read from.
        sizes: bytes.
    """

    targets: Tensor
    sources: Tensor
    sizes: Tensor

    @classmethod
    def joined(cls, parts: Iterable[Copies]) -> Copies:
        """Return all copies of the parts, of which there is at least one."""
        columns = zip(*((part.targets, part.sources, part.sizes) for part in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Rows of a component in one of two memories.

    Attributes:
        starts: int64 ``[layers]``, addresses of slot 0.
        page_size: tokens in a page.
        page: bytes from a page to the next.
        token: bytes from a token to the next in its page.
    """

    starts: Tensor
    page_size: int
    page: int
    token: int

    def at(self, slots: Tensor) -> Tensor:
        """Return the addresses of slots in each layer, ``[layers, count]``."""
        return self.starts[:, None] + slots // self.page_size * self.page + slots % self.page_size * self.token

    def boundary(self, row_bytes: int) -> int | None:
        """Return what slots are multiples of that are not adjacent to the one before; `None` if all are."""
        if self.token != row_bytes:
            return 1
        return None if self.page == self.page_size * row_bytes else self.page_size


def slot_runs(one: Tensor, other: Tensor, *boundaries: int | None) -> tuple[Tensor, Tensor]:
    """Return where runs start, as places in the lists, and how long they are.

    In a run both lists go up by one from place to place.

    Args:
        one: int64 ``[count]``, at least one slot.
        other: int64 ``[count]``.
        boundaries: for `one` and for `other`, what slots are multiples of that start a run in any case.
    """
    breaks = torch.zeros(len(one) - 1, dtype=torch.bool)
    for slots, boundary in zip((one, other), boundaries or (None, None), strict=True):
        breaks |= slots[1:] != slots[:-1] + 1
        if boundary is not None:
            breaks |= slots[1:] % boundary == 0
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), breaks.nonzero().flatten() + 1])
    return starts, torch.cat([starts[1:], torch.tensor([len(one)])]) - starts


def pool_copies(transfer: Transfer) -> Copies:
    """Return the copies that are a transfer between its pools: runs of slots in each layer of each component."""
    pool, layers = transfer.device_pool, transfer.layers
    device_slots, host_slots = transfer.device_slots.cpu(), transfer.host_slots.cpu()
    parts = []
    for component, stride in enumerate(pool.slot_strides):
        device = Side(torch.tensor(pool.starts[component][layers.start : layers.stop]), 1, stride, stride)
        host = _host_side(transfer.host_pool, component, transfer.host_layer, len(layers))
        lists = (device_slots, host_slots)
        parts.append(_copies((device, host), lists, pool.row_bytes[component], transfer.direction))
    return Copies.joined(parts)


def stage_copies(stage: HostPool, stage_slots: Tensor, transfer: Transfer) -> Copies:
    """Return the copies between a stage and the host pool of a transfer, as long as their layout allows.

    Args:
        stage: on the device, laid out as the host pool of the transfer, for the layers of the transfer alone.
        stage_slots: int64 ``[count]`` in host memory, for each of the host's slots the one where its token is staged,
            at the same place of a page.
        transfer: its slots are in host memory.
    """
    return Copies.joined(
        part for component in range(len(stage.buffers)) for part in _staged(stage, stage_slots, transfer, component)
    )


def _staged(stage: HostPool, stage_slots: Tensor, transfer: Transfer, component: int) -> Iterator[Copies]:
    host_pool, layers, direction = transfer.host_pool, len(transfer.layers), transfer.direction
    row_bytes = stage.row_bytes[component]
    lists: tuple[Tensor, ...] = (stage_slots, transfer.host_slots)
    sides: tuple[Side, ...] = (
        _host_side(stage, component, 0, layers),
        _host_side(host_pool, component, transfer.host_layer, layers),
    )
    if layers == host_pool.layers and host_pool.layout is HostLayout.PAGE_FIRST:
        # All layers of a token are one long row.
        sides = tuple(Side(side.starts[:1], side.page_size, side.page, side.token) for side in sides)
        row_bytes *= layers
    elif layers == host_pool.layers and host_pool.layout is HostLayout.PAGE_FIRST_DIRECT:
        # All layers of a page are one, if the page is full.
        page_size, page = host_pool.page_size, host_pool.strides[component].page
        starts, lengths = slot_runs(*lists, page_size, page_size)
        full = lengths == page_size
        if full.any():
            pages = tuple(slots[starts[full]] // page_size for slots in lists)
            whole = tuple(Side(side.starts[:1], 1, page, page) for side in sides)
            yield _copies(whole, pages, page, direction)
        lists = tuple(slots[~full.repeat_interleave(lengths)] for slots in lists)
    if len(lists[0]):
        yield _copies(sides, lists, row_bytes, direction)


def _host_side(pool: HostPool, component: int, first: int, layers: int) -> Side:
    strides = pool.strides[component]
    starts = pool.buffers[component].data_ptr() + torch.arange(first, first + layers) * strides.layer
    return Side(starts, pool.page_size, strides.page, strides.token)


def _copies(sides: tuple[Side, ...], lists: tuple[Tensor, ...], row_bytes: int, direction: Direction) -> Copies:
    """Return the copies between a device side and a host side, whose slots are given in this order."""
    starts, lengths = slot_runs(*lists, *(side.boundary(row_bytes) for side in sides))
    device, host = (side.at(slots[starts]) for side, slots in zip(sides, lists, strict=True))
    targets, sources = (host, device) if direction is Direction.OUT else (device, host)
    return Copies(targets.flatten(), sources.flatten(), (lengths * row_bytes).expand_as(host).flatten())
