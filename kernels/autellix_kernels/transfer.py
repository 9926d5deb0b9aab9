"""What a swap is, and what every implementation of it promises."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from autellix_kernels.pools import DevicePool, HostPool


class Direction(StrEnum):
    """Which way KV goes."""

    OUT = "out"
    """From the device to the host."""

    IN = "in"
    """From the host to the device."""


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """A swap that has been checked: KV of some tokens in some layers, from one pool to the other.

    Attributes:
        device_pool: KV on the device; the named layers of the slots listed are mutated when KV comes in.
        host_pool: KV in host memory, whose rows have as many bytes; mutated likewise when KV goes out.
        device_slots: int64 ``[count]`` without gaps, in host memory or on the device; never mutated.
        host_slots: likewise; the token at a place in one list is the one at this place in the other.
        layers: those that are copied, adjacent ones, as the device pool counts them.
        host_layer: what the host pool counts the first of them as.
        direction: which pool is read and which is written.
    """

    device_pool: DevicePool
    host_pool: HostPool
    device_slots: Tensor
    host_slots: Tensor
    layers: range
    host_layer: int
    direction: Direction

    @property
    def count(self) -> int:
        """Tokens to copy, at least one."""
        return len(self.device_slots)

    @property
    def moved_bytes(self) -> int:
        """Bytes to copy."""
        return self.count * len(self.layers) * sum(self.device_pool.row_bytes)


@dataclass(frozen=True, slots=True)
class Work:
    """What a swap had to ask of the hardware.

    Attributes:
        launches: kernels started and calls of the driver.
        copies: of which the calls of the driver are made, each of adjacent bytes.
    """

    launches: int = 0
    copies: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.launches + other.launches, self.copies + other.copies)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A component of a transfer in numbers, all in bytes: what a kernel that follows addresses has to know.

    Attributes:
        row_bytes: of a token in a layer.
        access: the widest access that fits every row in both pools, 1 to 16.
        device_stride: from a slot to the next on the device.
        host_address: where the first of the layers copied starts on the host, as this process sees it.
        page_stride: from a page to the next on the host.
        token_stride: from a token to the next in its page.
        layer_stride: from a layer to the next on the host.
    """

    row_bytes: int
    access: int
    device_stride: int
    host_address: int
    page_stride: int
    token_stride: int
    layer_stride: int

    @classmethod
    def of(cls, transfer: Transfer, component: int) -> Geometry:
        """Return what is true of a component."""
        device_pool, host_pool = transfer.device_pool, transfer.host_pool
        strides = host_pool.strides[component]
        return cls(
            row_bytes=device_pool.row_bytes[component],
            access=min(device_pool.alignments[component], host_pool.alignments[component]),
            device_stride=device_pool.slot_strides[component],
            host_address=host_pool.buffers[component].data_ptr() + transfer.host_layer * strides.layer,
            page_stride=strides.page,
            token_stride=strides.token,
            layer_stride=strides.layer,
        )


def on_device(slots: Tensor, device: torch.device) -> Tensor:
    """Return a list of slots on the device; sending it does not wait for the stream."""
    if slots.device == device:
        return slots
    return slots.pin_memory().to(device, non_blocking=True)


class SwapKernel(Protocol):
    """One way of copying. It keeps no state between transfers that a later one could tell.

    All of them leave the same bits, those that `reference` leaves: each byte of the rows listed is copied, and no other
    byte of either pool changes. On a GPU a copy takes its turn in the current stream, and host memory may be looked at
    when that stream has got there; in host memory it is done on return.
    """

    @property
    def name(self) -> str:
        """What `AUTELLIX_SWAP_KERNEL` calls it."""

    @property
    def slots_on_host(self) -> bool:
        """Whether it reads lists of slots in host memory, else on the device; it brings them there if need be."""

    def refusal(self, device: torch.device) -> str | None:
        """Return why it cannot run on such a device, with the remedy if there is one; `None` if it can."""

    def copy(self, transfer: Transfer) -> Work:
        """Copy, and return what that took; slots of a list are distinct, in range, and in any order."""
