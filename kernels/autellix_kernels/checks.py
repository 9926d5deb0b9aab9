"""What has to hold before a byte moves; everything here raises a typed error, and nothing here writes."""

from __future__ import annotations

import torch
from torch import Tensor

from autellix_kernels.errors import (
    DuplicateSlot,
    LayoutMismatch,
    RaggedLists,
    SlotError,
    SlotOutOfRange,
    UnpinnedMemory,
    WrongDevice,
)
from autellix_kernels.pools import DevicePool, HostPool


def check_pools(device_pool: DevicePool, host_pool: HostPool) -> None:
    """Check that rows of one pool can be rows of the other, and that the device reaches the host's memory.

    Raises:
        WrongDevice: the host pool is not in host memory.
        UnpinnedMemory: the device is a GPU and the host's memory is not pinned.
        LayoutMismatch: they differ in type, components, layers or size of a row.
    """
    if host_pool.device.type != "cpu":
        raise WrongDevice(f"the host pool is on {host_pool.device}; it has to be in host memory")
    if device_pool.device.type == "cuda" and not host_pool.pinned:
        raise UnpinnedMemory(
            f"the device pool is on {device_pool.device} and the host pool is not pinned; allocate it with "
            "pin_memory=True, or register it with cudaHostRegister"
        )
    for what, device, host in (
        ("type", device_pool.dtype, host_pool.dtype),
        ("bytes of a row, by component,", device_pool.row_bytes, host_pool.row_bytes),
        ("layers", device_pool.layers, host_pool.layers),
    ):
        if device != host:
            raise LayoutMismatch(f"{what} of the device pool: {device}, of the host pool: {host}")


def check_layer(layer: int, layers: int) -> None:
    """Check that there is such a layer.

    Raises:
        LayoutMismatch: there is none.
    """
    if not 0 <= layer < layers:
        raise LayoutMismatch(f"layer is {layer}; the pools have layers 0 to {layers - 1}")


def check_slots(
    device_pool: DevicePool,
    host_pool: HostPool,
    device_slots: Tensor,
    host_slots: Tensor,
    *,
    duplicates: bool,
    wait: bool = True,
) -> None:
    """Check both lists of slots.

    Slots are looked at, so for a list on a GPU the caller waits for what its current stream has to do before; a list in
    host memory is free of that.

    Args:
        device_pool: what `device_slots` are of.
        host_pool: what `host_slots` are of.
        device_slots: int64 ``[count]`` without gaps, in host memory or on the pool's device.
        host_slots: likewise.
        duplicates: look for them too, which takes sorting the lists.
        wait: look into lists on a GPU as well; else only at their type, shape and length.

    Raises:
        SlotError: a list has another type or shape.
        WrongDevice: a list is on another device.
        RaggedLists: they differ in length.
        SlotOutOfRange: a pool has no such slot.
        DuplicateSlot: a slot stands twice in a list.
    """
    lists = (("device_slots", device_slots, device_pool.slots), ("host_slots", host_slots, host_pool.slots))
    for name, slots, _ in lists:
        if slots.dtype != torch.int64 or slots.ndim != 1 or not slots.is_contiguous():
            raise SlotError(f"{name} is {slots.dtype} {list(slots.shape)}; it has to be int64 [count] without gaps")
        if slots.device not in (torch.device("cpu"), device_pool.device):
            raise WrongDevice(f"{name} is on {slots.device}; it has to be on cpu or on {device_pool.device}")
    if len(device_slots) != len(host_slots):
        raise RaggedLists(f"device_slots has {len(device_slots)} slots and host_slots has {len(host_slots)}")
    if not len(device_slots):
        return
    for name, slots, room in lists:
        if slots.is_cuda and not wait:
            continue
        low, high = torch.stack(torch.aminmax(slots)).tolist()
        if low < 0 or high >= room:
            raise SlotOutOfRange(f"{name} has {low if low < 0 else high}; the pool has slots 0 to {room - 1}")
        if duplicates and len(ordered := slots.sort().values) > 1 and (ordered[1:] == ordered[:-1]).any():
            raise DuplicateSlot(f"{name} has {int(ordered[1:][ordered[1:] == ordered[:-1]][0])} more than once")
