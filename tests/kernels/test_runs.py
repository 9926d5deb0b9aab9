"""Lists of slots become as few copies as memory allows, and these are the transfer."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from autellix_kernels import DevicePool, HostPool
from autellix_kernels.layout import HostLayout
from autellix_kernels.runs import Copies, pool_copies, slot_runs, stage_copies
from autellix_kernels.transfer import Direction, Transfer
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.shapes import KINDS, pools

GQA, GAPS = KINDS[0], KINDS[-1]
PAGE = 4
LAYERS = 3


def transfer(layout: str, device: list[int], host: list[int], *, layers: int = LAYERS, gaps: bool = False) -> Transfer:
    """Return a transfer out of pools with 64 slots in pages of 4, of two components with 3 layers."""
    kind = GAPS if gaps else GQA
    both = pools(kind, layout, page_size=PAGE, slots=64, pages=16, layers=LAYERS)
    return Transfer(*both, torch.tensor(device), torch.tensor(host), range(layers), 0, Direction.OUT)


def staged(layout: str, host: list[int], *, layers: int = LAYERS) -> Copies:
    """Return the copies from a stage with the pages of these slots, which are in order."""
    whole = transfer(layout, host, host, layers=layers)
    slots = torch.tensor(host)
    pages, page_of = torch.unique_consecutive(slots // PAGE, return_inverse=True)
    stage = HostPool.stage(whole.host_pool, layers=layers, pages=len(pages), device=torch.device("cpu"))
    return stage_copies(stage, page_of * PAGE + slots % PAGE, whole)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1), st.sampled_from([None, 1, 4]))
def test_runs_are_the_lists_cut_where_they_do_not_go_on(pairs: list[tuple[int, int]], boundary: int | None) -> None:
    """As a loop would cut them."""
    one, other = (torch.tensor(column) for column in zip(*pairs, strict=True))
    expected = [0]
    for place in range(1, len(pairs)):
        goes_on = pairs[place] == (pairs[place - 1][0] + 1, pairs[place - 1][1] + 1)
        if not goes_on or (boundary and pairs[place][1] % boundary == 0):
            expected.append(place)
    starts, lengths = slot_runs(one, other, None, boundary)
    assert starts.tolist() == expected
    assert (starts + lengths).tolist() == [*expected[1:], len(pairs)]


@pytest.mark.parametrize(
    ("layout", "device", "host", "runs"),
    [
        ("layer_first", range(10), range(20, 30), 1),
        ("layer_first", range(10), [*range(5), *range(6, 11)], 2),
        ("page_first_direct", range(8), range(8), 2),
        ("page_first_direct", range(1, 9), range(1, 9), 3),
        ("page_first", range(8), range(8), 8),
        ("layer_first", range(9, -1, -1), range(10), 10),
    ],
)
def test_adjacent_slots_are_one_copy_in_each_layer(layout: str, device: list[int], host: list[int], runs: int) -> None:
    """Of both components, as far as the host has them side by side."""
    assert len(pool_copies(transfer(layout, list(device), list(host))).sizes) == 2 * LAYERS * runs


def test_slots_with_gaps_between_them_are_copied_one_by_one() -> None:
    """What lies between is not ours."""
    copies = pool_copies(transfer("layer_first", list(range(10)), list(range(10)), gaps=True))
    assert len(copies.sizes) == 2 * LAYERS * 10


@pytest.mark.parametrize(
    ("layout", "host", "expected"),
    [
        ("page_first", range(8, 24), 1),
        ("page_first", range(9, 23), 1),
        ("page_first", [*range(8), *range(12, 16)], 2),
        ("page_first_direct", range(8, 24), 1),
        ("page_first_direct", [*range(8), *range(16, 24)], 2),
        ("page_first_direct", range(8, 22), 1 + LAYERS),
        ("page_first_direct", range(9, 11), LAYERS),
        ("layer_first", range(8, 24), LAYERS),
    ],
)
def test_a_stage_goes_out_in_few_copies(layout: str, host: list[int], expected: int) -> None:
    """One for each component where the host has all layers of a token, or of a full page, side by side."""
    assert len(staged(layout, list(host)).sizes) == 2 * expected


def test_one_layer_of_many_comes_from_where_it_is() -> None:
    """By token where layers stand between tokens, by page where they stand between pages."""
    assert len(staged("page_first", list(range(8)), layers=1).sizes) == 2 * 8
    assert len(staged("page_first_direct", list(range(8)), layers=1).sizes) == 2 * 2
    assert len(staged("layer_first", list(range(8)), layers=1).sizes) == 2 * 1


@given(st.sampled_from(HostLayout), st.integers(1, 64), st.randoms(use_true_random=False))
def test_every_byte_is_copied_once(layout: HostLayout, count: int, chance: random.Random) -> None:
    """Targets do not overlap, and are as many bytes as the rows have."""
    whole = transfer(layout, chance.sample(range(64), count), chance.sample(range(64), count))
    for copies in (pool_copies(whole), staged(layout, sorted(chance.sample(range(64), count)))):
        spans = sorted(zip(copies.targets.tolist(), copies.sizes.tolist(), strict=True))
        assert sum(size for _, size in spans) == count * LAYERS * sum(whole.device_pool.row_bytes)
        assert all(start + size <= after for (start, size), (after, _) in pairwise(spans))


def test_copies_go_the_way_of_the_transfer() -> None:
    """Out to the host, in to the device."""
    pool = DevicePool([[torch.zeros(1, 1, 1)]])
    host = HostPool([torch.zeros(1, 1, 1, 1)], "layer_first", 1)
    slot = torch.tensor([0])
    on_device, on_host = pool.starts[0][0], host.buffers[0].data_ptr()
    for direction, source, target in ((Direction.OUT, on_device, on_host), (Direction.IN, on_host, on_device)):
        copies = pool_copies(Transfer(pool, host, slot, slot, range(1), 0, direction))
        assert (copies.sources.tolist(), copies.targets.tolist(), copies.sizes.tolist()) == ([source], [target], [4])
