"""A page's sum is the same wherever it lies, and another when anything in it changes."""

from __future__ import annotations

import random

import pytest
import torch
from autellix_kernels import PageSums, swap_out
from autellix_kernels.layout import HostLayout

from tests.kernels.shapes import DTYPES, KINDS, Kind, pools

PAGE = 4
PAGES = 6


def out(kind: Kind, layout: HostLayout, dtype: torch.dtype, device: str) -> tuple[PageSums, list[int], torch.Tensor]:
    """Copy some pages out; return sums, the pages' numbers, and their sums on the device."""
    device_pool, host_pool = pools(kind, layout, dtype=dtype, page_size=PAGE, pages=PAGES, slots=24, device=device)
    sums = PageSums(device_pool, host_pool)
    chance = random.Random(0)
    slots = torch.tensor(chance.sample(range(24), 3 * PAGE))
    pages = chance.sample(range(PAGES), 3)
    host_slots = torch.tensor([page * PAGE + place for page in pages for place in range(PAGE)])
    swap_out(device_pool, host_pool, slots, host_slots)
    on_device = sums.of_device(slots)
    assert on_device.device == device_pool.device
    return sums, pages, on_device.cpu()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", HostLayout)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_page_has_the_same_sum_on_both_sides(kind: Kind, layout: HostLayout, dtype: torch.dtype, device: str) -> None:
    """Whatever slots it has on the device, and in whatever order pages are asked for."""
    sums, pages, expected = out(kind, layout, dtype, device)
    assert torch.equal(sums.of_host(torch.tensor(pages)), expected)
    assert torch.equal(sums.of_host(torch.tensor(pages[::-1])), expected.flip(0))
    assert len(set(expected.tolist())) == 3


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_turned_bit_is_seen_and_only_in_its_page(kind: Kind, device: str) -> None:
    """In any component, layer, row and byte."""
    device_pool, host_pool = pools(kind, "page_first", page_size=PAGE, pages=3, device=device)
    sums, every = PageSums(device_pool, host_pool), torch.arange(3)
    before = sums.of_host(every)
    chance = random.Random(1)
    for buffer in host_pool.buffers:
        pages = buffer.view(torch.uint8).view(3, -1)
        for _ in range(50):
            page, place, bit = chance.randrange(3), chance.randrange(pages.shape[1]), 1 << chance.randrange(8)
            pages[page, place] ^= bit
            assert (sums.of_host(every) != before).nonzero().flatten().tolist() == [page]
            pages[page, place] ^= bit


def test_what_changes_places_is_seen() -> None:
    """Two rows of a page, two layers, keys and values, two words of a row, and the sign of two words."""
    device_pool, host_pool = pools(KINDS[0], "page_first", page_size=PAGE, pages=1)
    sums, page = PageSums(device_pool, host_pool), torch.tensor([0])
    keys, values = (buffer.view(torch.int32) for buffer in host_pool.buffers)
    before = sums.of_host(page)
    for one, other in (
        (keys[0, 0], keys[1, 0]),
        (keys[0, 0], keys[0, 1]),
        (keys[2, 1], values[2, 1]),
        (keys[3, 0, 0, :1], keys[3, 0, 0, 1:2]),
    ):
        kept = one.clone(), other.clone()
        one.copy_(kept[1])
        other.copy_(kept[0])
        assert sums.of_host(page) != before
        one.copy_(kept[0])
        other.copy_(kept[1])
    keys[0, 0, 0, :2] ^= -(1 << 31)
    assert sums.of_host(page) != before
