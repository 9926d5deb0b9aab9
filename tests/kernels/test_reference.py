"""The reference copies what it should and nothing else: bytes counted out one by one."""

from __future__ import annotations

import random

import pytest
import torch
from autellix_kernels import DevicePool, HostPool, swap_in, swap_out
from autellix_kernels.errors import DuplicateSlot, KernelUnavailable, LayoutMismatch, SlotOutOfRange, SwapError
from autellix_kernels.layout import HostLayout

from tests.kernels.shapes import DTYPES, KINDS, Kind, memory, pools

LAYERS = 2


def row_on_device(pool: DevicePool, component: int, layer: int, slot: int) -> tuple[int, slice]:
    """Return which of `memory` has a row, and where."""
    start = slot * pool.slot_strides[component]
    return component * pool.layers + layer, slice(start, start + pool.row_bytes[component])


def row_on_host(pool: HostPool, component: int, layer: int, slot: int) -> tuple[int, slice]:
    """Return which of `memory` has a row, and where."""
    start = pool.strides[component].offset(slot, layer, pool.page_size)
    return component, slice(start, start + pool.row_bytes[component])


@pytest.mark.parametrize("page_size", [1, 3, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", HostLayout)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_byte_of_the_rows_is_copied_and_no_other(
    kind: Kind, layout: HostLayout, dtype: torch.dtype, page_size: int, device: str
) -> None:
    """Out, and into other slots of one layer; the last page is not full."""
    chance = random.Random(page_size)
    device_pool, host_pool = pools(
        kind, layout, dtype=dtype, page_size=page_size, pages=24, layers=LAYERS, device=device
    )
    slots, host_slots = chance.sample(range(24), 7), chance.sample(range(24 * page_size), 7)
    before, expected = memory(device_pool), [bytearray(one) for one in memory(host_pool)]
    swap_out(device_pool, host_pool, torch.tensor(slots), torch.tensor(host_slots), kernel="reference", debug=True)
    for slot, host_slot in zip(slots, host_slots, strict=True):
        for component in range(len(kind.components)):
            for layer in range(LAYERS):
                source, at = row_on_device(device_pool, component, layer, slot)
                target, where = row_on_host(host_pool, component, layer, host_slot)
                expected[target][where] = before[source][at]
    assert memory(host_pool) == expected
    assert memory(device_pool) == before

    others = chance.sample(range(24), 7)
    back = [bytearray(one) for one in before]
    swap_in(device_pool, host_pool, torch.tensor(others), torch.tensor(host_slots), 1, kernel="reference", debug=True)
    for slot, host_slot in zip(others, host_slots, strict=True):
        for component in range(len(kind.components)):
            source, at = row_on_host(host_pool, component, 1, host_slot)
            target, where = row_on_device(device_pool, component, 1, slot)
            back[target][where] = expected[source][at]
    assert memory(device_pool) == back
    assert memory(host_pool) == expected


def test_no_slots_are_no_swap() -> None:
    """A call without KV of its own leaves everything as it is."""
    device_pool, host_pool = pools(KINDS[0], "page_first")
    before = memory(device_pool), memory(host_pool)
    nothing = torch.tensor([], dtype=torch.int64)
    swap_out(device_pool, host_pool, nothing, nothing)
    swap_in(device_pool, host_pool, nothing, nothing, 0)
    assert (memory(device_pool), memory(host_pool)) == before


def test_whatever_is_refused_has_touched_nothing() -> None:
    """Slots, layers and names are looked at before the first byte."""
    device_pool, host_pool = pools(KINDS[0], "page_first")
    good = torch.tensor([3, 1])
    before = memory(device_pool), memory(host_pool)
    refused: list[tuple[type[SwapError], dict[str, object]]] = [
        (SlotOutOfRange, {"host_slots": torch.tensor([0, 24])}),
        (DuplicateSlot, {"host_slots": torch.tensor([5, 5]), "debug": True}),
        (LayoutMismatch, {"layer": 2}),
        (KernelUnavailable, {"kernel": "fastest"}),
    ]
    for error, how in refused:
        arguments = {"device_slots": good, "host_slots": good} | how
        with pytest.raises(error):
            swap_in(device_pool, host_pool, **({"layer": 0} | arguments))  # type: ignore[arg-type]
        if error is not LayoutMismatch:
            with pytest.raises(error):
                swap_out(device_pool, host_pool, **arguments)  # type: ignore[arg-type]
    assert (memory(device_pool), memory(host_pool)) == before
