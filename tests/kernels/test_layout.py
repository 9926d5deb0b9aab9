"""Where the KV of a token lies in every layout."""

from __future__ import annotations

import pytest
import torch
from autellix_kernels import swap_out
from autellix_kernels.errors import LayoutMismatch, WrongDevice
from autellix_kernels.layout import HostLayout, access_bytes, host_extent, host_shape, host_strides
from autellix_kernels.pools import DevicePool, HostPool
from autellix_kernels.transfer import Direction, Geometry, Transfer
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.shapes import DTYPES, KINDS, Kind, pools

SIZES = st.integers(1, 5)


@given(st.sampled_from(list(HostLayout)), SIZES, SIZES, SIZES, SIZES, SIZES, st.data())
def test_strides_find_every_row_where_the_shape_has_it(
    layout: HostLayout, layers: int, pages: int, page_size: int, heads: int, dim: int, data: st.DataObject
) -> None:
    """The element that indexing finds is the one at the offset."""
    shape = host_shape(layout, layers=layers, pages=pages, page_size=page_size, heads=heads, dim=dim)
    buffer = torch.arange(layers * pages * page_size * heads * dim).reshape(shape)
    slots = pages * page_size
    strides = host_strides(layout, layers=layers, slots=slots, page_size=page_size, row_bytes=heads * dim)
    slot, layer = data.draw(st.integers(0, slots - 1)), data.draw(st.integers(0, layers - 1))
    index = {
        "layer_first": (layer, slot),
        "page_first": (slot, layer),
        "page_first_direct": (slot // page_size, layer, slot % page_size),
    }[layout]
    assert buffer[index].flatten()[0] == strides.offset(slot, layer, page_size)
    assert host_extent(layout, shape, page_size) == (layers, slots)


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=4))
def test_an_access_divides_everything_and_twice_as_wide_would_not(quantities: list[int]) -> None:
    """Up to 16 bytes."""
    width = access_bytes(*quantities)
    assert all(quantity % width == 0 for quantity in quantities)
    assert width == 16 or any(quantity % (2 * width) for quantity in quantities)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("layer_first", (2, 8, 1, 1, 1)),
        ("layer_first", (2, 7, 1, 1)),
        ("page_first", (7, 2, 1, 1)),
        ("page_first_direct", (2, 2, 3, 1, 1)),
        ("page_first_direct", (2, 2, 4, 1)),
    ],
)
def test_a_buffer_of_another_shape_is_refused(layout: str, shape: tuple[int, ...]) -> None:
    """Dimensions, whole pages and the page's own are looked at; here a page has 4 tokens."""
    with pytest.raises(LayoutMismatch, match=f"no {layout} host memory"):
        HostPool([torch.zeros(shape)], layout, 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_pools_know_the_bytes_of_a_row(kind: Kind, dtype: torch.dtype) -> None:
    """Whatever the type, and equal on both sides."""
    device_pool, host_pool = pools(kind, "page_first", dtype=dtype)
    expected = tuple(heads * dim * dtype.itemsize for heads, dim in kind.components)
    assert device_pool.row_bytes == host_pool.row_bytes == expected
    assert device_pool.slot_strides == tuple(row + kind.gap * dtype.itemsize for row in expected)
    assert device_pool.addresses.tolist() == [
        [layer.data_ptr() for layer in component] for component in device_pool.components
    ]


def test_named_pools_have_their_components() -> None:
    """Keys and values are two, latents are one."""
    layers = [torch.zeros(4, 1, 3), torch.zeros(4, 1, 3)]
    assert len(DevicePool.mha(layers, layers).components) == 2
    assert len(DevicePool.mla(layers).components) == 1


def test_buffers_of_a_device_pool_have_to_match() -> None:
    """In slots, type, size of a row, stride, number of layers; and rows have no gaps."""
    good = torch.zeros(4, 2, 3)
    for bad in (
        torch.zeros(5, 2, 3),
        torch.zeros(4, 2, 3, dtype=torch.int32),
        torch.zeros(4, 2, 2),
        torch.zeros(4, 6),
        torch.zeros(8, 2, 3)[::2],
        torch.zeros(4, 3, 2).transpose(1, 2),
        torch.zeros(1, 2, 3).expand(4, 2, 3),
    ):
        with pytest.raises(LayoutMismatch):
            DevicePool([[good, bad]])
    for components in ([], [[]], [[good], [good, good]]):
        with pytest.raises(LayoutMismatch, match="as many layers"):
            DevicePool(components)
    with pytest.raises(WrongDevice, match="on cpu and on meta"):
        DevicePool([[good, good.to("meta")]])


def test_buffers_of_a_host_pool_have_to_match() -> None:
    """In type, layers and slots, without gaps; names of layouts and page sizes are checked too."""
    good = torch.zeros(2, 8, 2, 3)
    for bad in (torch.zeros(2, 12, 2, 3), torch.zeros(3, 8, 2, 3), good.to(torch.int32), good.transpose(2, 3)):
        with pytest.raises(LayoutMismatch):
            HostPool([good, bad], "layer_first", 4)
    with pytest.raises(WrongDevice, match="on cpu and on meta"):
        HostPool([good, good.to("meta")], "layer_first", 4)
    with pytest.raises(LayoutMismatch, match="choose one of: layer_first, page_first, page_first_direct"):
        HostPool([good], "page_head", 4)
    with pytest.raises(LayoutMismatch, match="page size is 65; it has to be 1 to 64 tokens"):
        HostPool([good], "layer_first", 65)
    with pytest.raises(LayoutMismatch, match="has none"):
        HostPool([], "layer_first", 4)


def test_page_head_is_page_first_of_heads() -> None:
    """SGLang's layout with heads outside of pages needs no kernel: rows of a head, and a page for each."""
    pages, heads, page_size, layers, dim = 3, 2, 4, 3, 5
    keys = [torch.randn(16, heads, dim) for _ in range(layers)]
    page_head = torch.zeros(pages, heads, page_size, layers, dim)
    device_pool = DevicePool([[layer.view(-1, 1, dim) for layer in keys]])
    host_pool = HostPool([page_head.view(-1, layers, 1, dim)], "page_first", page_size)
    device_slots, host_slots = torch.tensor([7, 2, 15]), torch.tensor([11, 0, 6])
    every = torch.arange(heads)
    swap_out(
        device_pool,
        host_pool,
        (device_slots[:, None] * heads + every).flatten(),
        ((host_slots[:, None] // page_size * heads + every) * page_size + host_slots[:, None] % page_size).flatten(),
    )
    expected = torch.zeros_like(page_head)
    for layer, rows in enumerate(keys):
        for device_slot, host_slot in zip(device_slots.tolist(), host_slots.tolist(), strict=True):
            expected[host_slot // page_size, :, host_slot % page_size, layer] = rows[device_slot]
    assert torch.equal(page_head, expected)


def test_memory_is_pinned_from_its_first_to_its_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch asks CUDA about one address, and `cudaHostRegister` may have pinned a part."""
    buffers = [torch.zeros(1, 8, 1, 4) for _ in range(2)]
    ends = {buffer.flatten()[place].data_ptr() for buffer in buffers for place in (0, -1)}
    for unpinned in (None, *ends):
        monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: tensor.data_ptr() in ends - {unpinned})  # noqa: B023
        assert HostPool(buffers, "layer_first", 4).pinned == (unpinned is None)


@pytest.mark.parametrize(
    ("device_offset", "host_offset", "dim", "access"),
    [(0, 0, 32, 16), (0, 4, 32, 4), (2, 0, 32, 2), (0, 0, 24, 8), (0, 0, 7, 1), (8, 4, 32, 4)],
)
def test_an_access_fits_both_pools(device_offset: int, host_offset: int, dim: int, access: int) -> None:
    """Where they start, and every row of theirs; a GPU would refuse what does not fit."""
    device = torch.zeros(64 + 8 * dim, dtype=torch.uint8)[device_offset:][: 8 * dim].view(8, 1, dim)
    host = torch.zeros(64 + 8 * dim, dtype=torch.uint8)[host_offset:][: 8 * dim].view(1, 8, 1, dim)
    slots = torch.tensor([0])
    both = DevicePool([[device]]), HostPool([host], "layer_first", 4)
    assert Geometry.of(Transfer(*both, slots, slots, range(1), 0, Direction.OUT), 0).access == access
