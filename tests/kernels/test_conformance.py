"""Every kernel that there is leaves the bits that the reference leaves, in both pools, on this run's device."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

import pytest
import torch
from autellix_kernels import DevicePool, HostPool, swap_in, swap_out
from autellix_kernels.layout import HostLayout
from autellix_kernels.swap import KERNELS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels.shapes import DTYPES, KINDS, Kind, memory, pools

OTHERS = sorted(KERNELS.keys() - {"reference"})
PAGE_SIZES = (1, 2, 16, 64)


@dataclass(frozen=True, slots=True)
class Case:
    """A swap out and back into other slots.

    Attributes:
        kind: shape of the KV.
        layout: of the host.
        dtype: of both.
        page_size: tokens in a page of the host.
        count: tokens that are swapped.
        layers: of the model; the last one comes back.
        runs: tokens at most that are adjacent in both lists.
        seed: of all that is left to chance: what memory holds, and the order of slots.
    """

    kind: Kind
    layout: HostLayout
    dtype: torch.dtype
    page_size: int
    count: int
    layers: int = 2
    runs: int = 1
    seed: int = 0

    def slots(self, chance: random.Random) -> tuple[int, list[int]]:
        """Return how many slots a pool has, and those that a list has: runs of adjacent ones, in any order."""
        runs = -(-self.count // self.runs)
        # One slot is between any two runs, and one after the last.
        starts = [number * (self.runs + 1) for number in chance.sample(range(runs), runs)]
        return runs * (self.runs + 1), [start + place for start in starts for place in range(self.runs)][: self.count]


def outcome(case: Case, kernel: str, device: str, slots_on: str = "cpu") -> tuple[list[bytes], ...]:
    """Return what is in the host's memory after the swap out, and on the device after the swap in."""
    torch.manual_seed(case.seed)
    chance = random.Random(case.seed)
    room, numbers = case.slots(chance)
    host_room, host_numbers = case.slots(chance)
    device_pool, host_pool = pools(
        case.kind,
        case.layout,
        dtype=case.dtype,
        page_size=case.page_size,
        slots=room,
        pages=-(-host_room // case.page_size),
        layers=case.layers,
        device=device,
    )
    host_slots = torch.tensor(host_numbers, device=slots_on)
    swap_out(device_pool, host_pool, torch.tensor(numbers, device=slots_on), host_slots, kernel=kernel, debug=True)
    settle(device)
    out = memory(host_pool)
    chance.shuffle(numbers)
    slots = torch.tensor(numbers, device=slots_on)
    swap_in(device_pool, host_pool, slots, host_slots, case.layers - 1, kernel=kernel, debug=True)
    settle(device)
    assert memory(host_pool) == out, "what comes in has changed the host's memory"
    return out, memory(device_pool)


@functools.cache
def truth(case: Case, device: str) -> tuple[list[bytes], ...]:
    """Return the outcome by the reference."""
    return outcome(case, "reference", device)


def settle(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


@pytest.fixture(params=OTHERS)
def kernel(request: pytest.FixtureRequest, device: str) -> str:
    """Each kernel but the reference; those that cannot run here are skipped, and say why."""
    name = str(request.param)
    if reason := KERNELS[name].refusal(torch.device(device)):
        pytest.skip(f"{name}: {reason}")
    return name


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", HostLayout)
def test_bits_are_those_of_the_reference(
    kernel: str, layout: HostLayout, dtype: torch.dtype, page_size: int, device: str
) -> None:
    """For every kind of KV: slots in any order and pages that are not full, with poison all around."""
    for kind in KINDS:
        case = Case(kind, layout, dtype, page_size, count=page_size + 3, runs=3)
        assert outcome(case, kernel, device) == truth(case, device), kind.name


@pytest.mark.parametrize("layout", HostLayout)
def test_ten_thousand_slots(kernel: str, layout: HostLayout, device: str) -> None:
    """Runs of whole pages, and single ones in any order."""
    for runs in (16, 1):
        case = Case(KINDS[0], layout, torch.bfloat16, page_size=16, count=10_000, runs=runs)
        assert outcome(case, kernel, device) == truth(case, device)


@pytest.mark.parametrize("layout", HostLayout)
def test_slots_may_be_on_the_device(kernel: str, layout: HostLayout, device: str) -> None:
    """Where the engine has its own lists."""
    case = Case(KINDS[0], layout, torch.bfloat16, page_size=4, count=50, runs=4)
    assert outcome(case, kernel, device, device) == truth(case, device)


@pytest.mark.parametrize("layout", HostLayout)
def test_pools_may_have_more_bytes_than_32_bits_count(kernel: str, layout: HostLayout, device: str) -> None:
    """First and last slots of a host pool of 3 GiB, of which memory that is not touched costs nothing."""
    room = 2**30 // 64
    layers = [torch.randint(0, 256, (8, 1, 64), dtype=torch.uint8).to(device) for _ in range(3)]
    device_pool = DevicePool([layers])
    host_pool = HostPool.beside(device_pool, layout, pages=room // 16, page_size=16)
    slots, host_slots = torch.tensor([3, 1, 7, 0]), torch.tensor([0, room - 1, room // 2, room - 2])
    expected = [layer[slots].cpu() for layer in layers]
    swap_out(device_pool, host_pool, slots, host_slots, kernel=kernel)
    settle(device)
    on_host = [host_pool.rows(0, layer)[host_slots // 16, host_slots % 16] for layer in range(3)]
    assert all(torch.equal(there, rows.flatten(1)) for there, rows in zip(on_host, expected, strict=True))
    for number, layer in enumerate(layers):
        layer.zero_()
        swap_in(device_pool, host_pool, slots, host_slots, number, kernel=kernel)
    settle(device)
    assert all(torch.equal(layer[slots].cpu(), rows) for layer, rows in zip(layers, expected, strict=True))


CASES = st.builds(
    Case,
    kind=st.builds(
        Kind,
        st.just("any"),
        st.lists(st.tuples(st.integers(1, 4), st.integers(1, 48)), min_size=1, max_size=2).map(tuple),
        st.integers(0, 3),
    ),
    layout=st.sampled_from(HostLayout),
    dtype=st.sampled_from(DTYPES),
    page_size=st.integers(1, 64),
    count=st.integers(1, 300),
    layers=st.integers(1, 5),
    runs=st.integers(1, 70),
    seed=st.integers(0, 1 << 30),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CASES)
def test_any_swap_leaves_the_bits_of_the_reference(kernel: str, device: str, case: Case) -> None:
    """Whatever the shape, the slots and their order."""
    assert outcome(case, kernel, device) == truth(case, device)


def test_names_are_those_of_the_kernels() -> None:
    """And there is one that runs everywhere."""
    assert {name: kernel.name for name, kernel in KERNELS.items()} == {name: name for name in KERNELS}
    assert KERNELS["reference"].refusal(torch.device("cpu")) is None


def test_a_host_pool_beside_a_gpu_is_pinned(device: str) -> None:
    """And one beside a CPU is not."""
    device_pool = DevicePool([[torch.zeros(2, 1, 1, device=device)]])
    assert HostPool.beside(device_pool, "page_first", pages=1, page_size=1).pinned == (device == "cuda")
