"""What kernels are compared with does the same work: it is asked for the same KV, and it copies it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch
from autellix_kernels.bench import engine, rivals
from autellix_kernels.cuda import build
from autellix_kernels.layout import HostLayout
from autellix_kernels.reference import Reference
from autellix_kernels.transfer import Direction, Transfer

from tests.kernels.shapes import KINDS, Kind, memory, pools

GQA, NARROWER, MLA, _, ODD, GAPS = KINDS
PAGE = 4


class FakeEngine:
    """`sgl_kernel.kvcacheio` as far as we call it: what its functions do with their arguments, byte by byte."""

    def transfer_kv_all_layer_direct_lf_pf(
        self, *, src_ptrs: Any, dst_ptrs: Any, src_indices: Any, dst_indices: Any, page_size: int
    ) -> None:
        """Copy rows of each layer's tensor into pages that hold all layers."""
        layers = len(src_ptrs) // len(dst_ptrs)
        for number, source in enumerate(src_ptrs):
            for one, other in zip(src_indices.tolist(), dst_indices.tolist(), strict=True):
                dst_ptrs[number // layers][other // page_size, number % layers, other % page_size] = source[one]

    def transfer_kv_per_layer_direct_pf_lf(
        self, *, src_ptrs: Any, dst_ptrs: Any, src_indices: Any, dst_indices: Any, layer_id: int, page_size: int
    ) -> None:
        """Copy rows of a layer out of pages that hold all layers."""
        for source, target in zip(src_ptrs, dst_ptrs, strict=True):
            for one, other in zip(src_indices.tolist(), dst_indices.tolist(), strict=True):
                target[other] = source[one // page_size, layer_id, one % page_size]

    def transfer_kv_all_layer_lf_pf(
        self, *, src_k_layers: Any, dst_k: Any, src_v_layers: Any, dst_v: Any, dst_layout_dim: int, **common: Any
    ) -> None:
        """Copy rows from addresses of layers into tokens that hold all layers."""
        for sources, target in ((src_k_layers, dst_k), (src_v_layers, dst_v)):
            self._copy(
                sources, lambda layer, to=target: to.data_ptr() + layer * common["item_size"], dst_layout_dim, common
            )

    def transfer_kv_all_layer(
        self, *, src_k_layers: Any, dst_k_layers: Any, src_v_layers: Any, dst_v_layers: Any, **common: Any
    ) -> None:
        """Copy rows from addresses of layers to addresses of layers."""
        for sources, targets in ((src_k_layers, dst_k_layers), (src_v_layers, dst_v_layers)):
            self._copy(sources, lambda layer, to=targets: int(to[layer]), common["item_size"], common)

    def transfer_kv_per_layer_pf_lf(
        self, *, src_k: Any, dst_k: Any, src_v: Any, dst_v: Any, layer_id: int, src_layout_dim: int, **common: Any
    ) -> None:
        """Copy rows of a layer out of tokens that hold all layers."""
        assert src_layout_dim == src_k[0].nbytes
        for source, target in ((src_k[:, layer_id], dst_k), (src_v[:, layer_id], dst_v)):
            target[common["dst_indices"]] = source[common["src_indices"]]

    def transfer_kv_per_layer(self, *, src_k: Any, dst_k: Any, src_v: Any, dst_v: Any, **common: Any) -> None:
        """Copy rows of a layer."""
        assert common["item_size"] == src_k[0].nbytes
        for source, target in ((src_k, dst_k), (src_v, dst_v)):
            target[common["dst_indices"]] = source[common["src_indices"]]

    def transfer_kv_all_layer_mla_lf_pf(self, *, src_layers: Any, dst: Any, dst_layout_dim: int, **common: Any) -> None:
        """As without `mla`, of one component."""
        self._copy(src_layers, lambda layer: dst.data_ptr() + layer * common["item_size"], dst_layout_dim, common)

    def transfer_kv_all_layer_mla(self, *, src_layers: Any, dst_layers: Any, **common: Any) -> None:
        """As without `mla`, of one component."""
        self._copy(src_layers, lambda layer: int(dst_layers[layer]), common["item_size"], common)

    def transfer_kv_per_layer_mla_pf_lf(
        self, *, src: Any, dst: Any, layer_id: int, src_layout_dim: int, **common: Any
    ) -> None:
        """As without `mla`, of one component."""
        assert src_layout_dim == src[0].nbytes
        dst[common["dst_indices"]] = src[:, layer_id][common["src_indices"]]

    def transfer_kv_per_layer_mla(self, *, src: Any, dst: Any, **common: Any) -> None:
        """As without `mla`, of one component."""
        assert common["item_size"] == src[0].nbytes
        dst[common["dst_indices"]] = src[common["src_indices"]]

    @staticmethod
    def _copy(sources: Any, target: Callable[[int], int], stride: int, common: dict[str, Any]) -> None:
        size = common["item_size"]
        assert len(sources) == common["num_layers"]
        for layer in range(len(sources)):
            slots = zip(common["src_indices"].tolist(), common["dst_indices"].tolist(), strict=True)
            for one, other in slots:
                ctypes.memmove(target(layer) + other * stride, int(sources[layer]) + one * size, size)


def whole(layout: HostLayout, direction: Direction, kind: Kind = GQA) -> Transfer:
    """Return a swap of three pages, all layers out or the last one in; always the same."""
    torch.manual_seed(0)
    both = pools(kind, layout, page_size=PAGE, slots=32, pages=8, layers=3)
    device_slots, host_slots = (
        (torch.tensor(pages)[:, None] * PAGE + torch.arange(PAGE)).flatten() for pages in ([5, 0, 3], [1, 6, 2])
    )
    layers = range(3) if direction is Direction.OUT else range(2, 3)
    return Transfer(*both, device_slots, host_slots, layers, layers.start, direction)


@pytest.mark.parametrize("kind", [GQA, MLA], ids=lambda kind: kind.name)
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("layout", HostLayout)
def test_the_engine_is_asked_for_the_same_swap(
    layout: HostLayout, direction: Direction, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the functions and arguments that its own host pools call."""
    monkeypatch.setattr(engine, "_engine", FakeEngine)
    outcomes = []
    for kernel in (engine.EngineKernels(), Reference()):
        transfer = whole(layout, direction, kind)
        (mine,) = rivals.asked(kernel, [transfer])
        kernel.copy(mine)
        outcomes.append(memory(transfer.device_pool) + memory(transfer.host_pool))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("layout", HostLayout)
def test_a_copy_per_block_has_blocks_in_one_piece(layout: HostLayout, direction: Direction) -> None:
    """Of each layer and component, whatever the layout of the others, and in the same memory."""
    if build.compiler() is None:
        pytest.skip("there is no nvcc")
    transfer = whole(layout, direction)
    (mine,) = rivals.asked(rivals.PerBlock(), [transfer])
    assert mine.host_pool.layout is HostLayout.PAGE_FIRST_DIRECT
    assert [buffer.data_ptr() for buffer in mine.host_pool.buffers] == [
        buffer.data_ptr() for buffer in transfer.host_pool.buffers
    ]
    assert rivals.PerBlock().copy(mine).copies == 3 * 2 * len(transfer.layers)


def test_the_engine_is_not_asked_for_what_it_does_not_know() -> None:
    """Keys and values of different sizes, rows that are no whole words, and gaps between them."""
    slots = torch.tensor([0])
    for kind in (NARROWER, ODD, GAPS):
        transfer = Transfer(*pools(kind, "page_first"), slots, slots, range(2), 0, Direction.OUT)
        assert not rivals.asked(engine.EngineKernels(), [transfer])
        assert rivals.asked(Reference(), [transfer]) == [transfer]


def test_without_a_gpu_or_its_package_the_engine_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the reason is told."""
    assert engine.EngineKernels().refusal(torch.device("cpu")) == "there is no GPU"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reason = engine.EngineKernels().refusal(torch.device("cuda"))
    assert reason is not None
    assert reason.startswith("there is no sgl_kernel")
