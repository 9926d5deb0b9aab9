"""Bad input is a typed error, and nothing has been touched."""

from __future__ import annotations

import pytest
import torch
from autellix_kernels.checks import check_layer, check_pools, check_slots
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

from tests.kernels.shapes import KINDS, pools

GQA, NARROWER = KINDS[0], KINDS[1]


def slots(*numbers: int) -> torch.Tensor:
    """Return a list of slots."""
    return torch.tensor(numbers, dtype=torch.int64)


def test_pools_that_fit_pass() -> None:
    """Whatever the layout."""
    for layout in ("layer_first", "page_first", "page_first_direct"):
        check_pools(*pools(GQA, layout, page_size=4))


def test_pools_that_do_not_fit_are_refused() -> None:
    """Types of the same size too: what comes back would be read as something else."""
    device_pool, _ = pools(GQA, "page_first")
    for what, other in (
        ("type", pools(GQA, "page_first", dtype=torch.float16)[1]),
        ("bytes of a row", pools(NARROWER, "page_first")[1]),
        ("layers", pools(GQA, "page_first", layers=3)[1]),
    ):
        with pytest.raises(LayoutMismatch, match=rf"{what}.* of the device pool"):
            check_pools(device_pool, other)


def test_host_memory_is_where_it_is_said_to_be() -> None:
    """A host pool on a device is a stage of a transfer, and no end of one."""
    device_pool, _ = pools(GQA, "page_first")
    stage = HostPool.stage(pools(GQA, "page_first")[1], layers=2, pages=2, device=torch.device("meta"))
    with pytest.raises(WrongDevice, match="has to be in host memory"):
        check_pools(device_pool, stage)


def test_a_gpu_needs_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how to get it."""
    device_pool, host_pool = pools(GQA, "page_first")
    monkeypatch.setattr(device_pool, "device", torch.device("cuda:0"))
    monkeypatch.setattr(host_pool, "pinned", False)
    with pytest.raises(UnpinnedMemory, match="pin_memory=True"):
        check_pools(device_pool, host_pool)
    monkeypatch.setattr(host_pool, "pinned", True)
    check_pools(device_pool, host_pool)


@pytest.fixture
def fitting() -> tuple[DevicePool, HostPool]:
    """Pools of 24 device slots and 32 host slots."""
    return pools(GQA, "page_first", slots=24, pages=8, page_size=4)


def test_good_lists_pass(fitting: tuple[DevicePool, HostPool]) -> None:
    """In any order, the outermost slots, and none at all."""
    check_slots(*fitting, slots(23, 0, 5), slots(31, 0, 7), duplicates=True)
    check_slots(*fitting, slots(), slots(), duplicates=True)


@pytest.mark.parametrize("bad", [slots(0).int(), slots(0, 1).reshape(1, 2), slots(0, 1, 2, 3)[::2]])
def test_lists_are_int64_and_flat(fitting: tuple[DevicePool, HostPool], bad: torch.Tensor) -> None:
    """Kernels read them as they lie."""
    with pytest.raises(SlotError, match=r"host_slots is .* has to be int64"):
        check_slots(*fitting, slots(0), bad, duplicates=False)


def test_lists_are_in_host_memory_or_on_the_device(fitting: tuple[DevicePool, HostPool]) -> None:
    """Nowhere else."""
    with pytest.raises(WrongDevice, match="device_slots is on meta"):
        check_slots(*fitting, slots(0).to("meta"), slots(0), duplicates=False)


def test_lists_are_as_long_as_one_another(fitting: tuple[DevicePool, HostPool]) -> None:
    """Otherwise some KV would have no place to go."""
    with pytest.raises(RaggedLists, match="device_slots has 2 slots and host_slots has 1"):
        check_slots(*fitting, slots(0, 1), slots(0), duplicates=False)


@pytest.mark.parametrize(
    ("device_slots", "host_slots", "message"),
    [
        (slots(0, 24), slots(0, 1), "device_slots has 24; the pool has slots 0 to 23"),
        (slots(-1, 0), slots(0, 1), "device_slots has -1"),
        (slots(0, 1), slots(0, 32), "host_slots has 32; the pool has slots 0 to 31"),
        (slots(0, 1), slots(-2, 1), "host_slots has -2"),
    ],
)
def test_slots_that_are_not_there_are_refused(
    fitting: tuple[DevicePool, HostPool], device_slots: torch.Tensor, host_slots: torch.Tensor, message: str
) -> None:
    """In either list, at either end."""
    with pytest.raises(SlotOutOfRange, match=message):
        check_slots(*fitting, device_slots, host_slots, duplicates=False)


def test_duplicates_are_found_when_asked_for(fitting: tuple[DevicePool, HostPool]) -> None:
    """In either list; looking costs a sort, so that it is a choice."""
    with pytest.raises(DuplicateSlot, match="host_slots has 7 more than once"):
        check_slots(*fitting, slots(0, 1, 2), slots(7, 3, 7), duplicates=True)
    with pytest.raises(DuplicateSlot, match="device_slots has 2"):
        check_slots(*fitting, slots(2, 1, 2), slots(7, 3, 4), duplicates=True)
    check_slots(*fitting, slots(0, 1, 2), slots(7, 3, 7), duplicates=False)


def test_layers_are_counted_from_zero() -> None:
    """And there are as many as the pools have."""
    check_layer(0, 2)
    check_layer(1, 2)
    for layer in (-1, 2):
        with pytest.raises(LayoutMismatch, match="layers 0 to 1"):
            check_layer(layer, 2)
