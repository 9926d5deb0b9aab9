"""Swaps over and over between the same pools: checked once, copied as `swap_out` and `swap_in` do."""

from __future__ import annotations

import pytest
import torch
from autellix_kernels import Direction, HostPool, Route, swap, swap_in, swap_out
from autellix_kernels.errors import KernelUnavailable, LayoutMismatch, RaggedLists, SlotOutOfRange
from autellix_kernels.layout import HostLayout
from autellix_kernels.swap import KERNELS
from autellix_kernels.transfer import Work

from tests.kernels.shapes import KINDS, memory, pools

pytestmark = pytest.mark.usefixtures("asked_anew")

SLOTS, HOST_SLOTS = torch.tensor([5, 1, 9, 0]), torch.tensor([8, 9, 10, 11])


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("kernel", sorted(KERNELS))
@pytest.mark.parametrize("layout", HostLayout)
def test_a_route_leaves_the_bits_that_a_swap_leaves(
    layout: HostLayout, kernel: str, where: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every kernel, and with lists on either side; all layers out, one in."""
    monkeypatch.setenv("AUTELLIX_SWAP_KERNEL", kernel)
    ours, theirs = (pools(KINDS[0], layout, page_size=4, device=device) for _ in range(2))
    if reason := KERNELS[kernel].refusal(ours[0].device):
        pytest.skip(reason)
    for mine, other in zip(ours[0].components, theirs[0].components, strict=True):
        for buffer, twin in zip(mine, other, strict=True):
            twin.copy_(buffer)
    for buffer, twin in zip(ours[1].buffers, theirs[1].buffers, strict=True):
        twin.copy_(buffer)
    lists = [slots.to(device if where == "device" else "cpu") for slots in (SLOTS, HOST_SLOTS)]
    route = Route(*ours, Direction.OUT, by_address=where == "device")
    assert route.choice.kernel == kernel
    route.copy(*route.prepare(*lists), range(2))
    swap_out(*theirs, SLOTS, HOST_SLOTS, kernel="reference")
    back = Route(*ours, Direction.IN)
    back.copy(*back.prepare(lists[0].flip(0), lists[1]), range(1, 2))
    swap_in(*theirs, SLOTS.flip(0), HOST_SLOTS, 1, kernel="reference")
    if ours[0].device.type == "cuda":
        torch.cuda.synchronize()
    assert [memory(pool) for pool in ours] == [memory(pool) for pool in theirs]


def test_bad_lists_are_refused_before_anything_is_copied(device: str) -> None:
    """When they are prepared, which is once for all layers."""
    route = Route(*pools(KINDS[0], "page_first", device=device), Direction.OUT)
    with pytest.raises(SlotOutOfRange, match="host_slots has 24"):
        route.prepare(torch.tensor([0]), torch.tensor([24]))
    with pytest.raises(RaggedLists):
        route.prepare(torch.tensor([0, 1]), torch.tensor([2]))
    nothing = torch.tensor([], dtype=torch.int64)
    assert route.copy(*route.prepare(nothing, nothing), range(2)) == Work()


def test_pools_that_do_not_fit_and_kernels_that_cannot_run_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not when the first KV is to go out."""
    device_pool, _ = pools(KINDS[0], "page_first")
    with pytest.raises(LayoutMismatch):
        Route(device_pool, pools(KINDS[0], "page_first", layers=3)[1], Direction.OUT)
    monkeypatch.setitem(KERNELS, "batch", Refusing())
    monkeypatch.setenv("AUTELLIX_SWAP_KERNEL", "batch")
    with pytest.raises(KernelUnavailable, match="not today"):
        Route(*pools(KINDS[0], "page_first"), Direction.OUT)


class Refusing:
    """A kernel that cannot run."""

    name = "batch"
    slots_on_host = True

    def refusal(self, device: torch.device) -> str:
        """Return why."""
        return "not today"


def test_kernels_that_read_lists_on_the_host_give_way_when_these_are_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They would wait for the GPU to learn what to copy; for the reference there is no other way."""
    asked = []
    monkeypatch.setattr(swap, "measured", lambda *_: None)
    monkeypatch.setattr(swap, "choose", lambda shape, refusals, link: asked.append(refusals))
    for kernel in KERNELS.values():
        monkeypatch.setattr(type(kernel), "refusal", lambda *_: None)
    shape = object()
    for on_device in (False, True):
        swap._choice.__wrapped__(torch.device("cuda"), shape, Direction.IN, on_device)
    waiting = {name for name, reason in asked[1].items() if reason is not None}
    assert waiting == {"batch", "cuda-staged"}
    assert set(asked[0].values()) == {None}


@pytest.mark.parametrize("layout", HostLayout)
def test_buffers_may_be_parts_of_a_larger_one(layout: HostLayout, device: str) -> None:
    """SGLang has keys and values in one."""
    device_pool, apart = pools(KINDS[0], layout, page_size=4, device=device)
    whole = torch.stack(list(apart.buffers))
    if device == "cuda":
        whole = whole.pin_memory()
    together = HostPool(list(whole), layout, 4)
    for pool in (apart, together):
        swap_out(device_pool, pool, SLOTS, HOST_SLOTS)
    if device == "cuda":
        torch.cuda.synchronize()
    for alone, part in zip(apart.buffers, whole, strict=True):
        assert torch.equal(alone.view(torch.uint8), part.view(torch.uint8))
