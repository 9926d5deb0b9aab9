"""Which kernel is chosen, from shapes and figures; and that it can be told."""

from __future__ import annotations

import pytest
import torch
from autellix_kernels import Direction, choice, link
from autellix_kernels.layout import HostLayout
from autellix_kernels.select import Link, Shape, choose
from autellix_kernels.settings import Settings
from autellix_kernels.swap import KERNELS
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.errors import ConfigurationError
from tests.kernels.shapes import KINDS, pools

DIRECT, PAGE_FIRST, LAYER_FIRST = HostLayout.PAGE_FIRST_DIRECT, HostLayout.PAGE_FIRST, HostLayout.LAYER_FIRST
ALL = dict.fromkeys(KERNELS)
MADE_UP = Link(bulk_bytes_s=50e9, mapped_bytes_s=40e9, copy_s=200e-9)
"""Round figures; a copy of 10,000 bytes takes as long for itself as for its bytes."""


def shape(layout: HostLayout, page_size: int, *, row_bytes: int = 2048, layers: int = 32, out: bool = True) -> Shape:
    """Return the swap of a model with 32 layers, all of them or one."""
    return Shape(layout, page_size, row_bytes, layers if out else 1, out)


@pytest.mark.parametrize(
    ("layout", "page_size", "out", "pool_piece", "host_piece"),
    [
        (DIRECT, 16, True, 16 * 2048, 16 * 32 * 2048),
        (DIRECT, 16, False, 16 * 2048, 16 * 2048),
        (PAGE_FIRST, 16, True, 2048, 16 * 32 * 2048),
        (PAGE_FIRST, 16, False, 2048, 2048),
        (LAYER_FIRST, 16, True, 16 * 2048, 16 * 2048),
        (LAYER_FIRST, 1, True, 2048, 2048),
    ],
)
def test_pieces_follow_the_layout(
    layout: HostLayout, page_size: int, out: bool, pool_piece: int, host_piece: int
) -> None:
    """What a page has side by side, on both sides and on the host alone."""
    made = shape(layout, page_size, out=out)
    assert (made.pool_piece_bytes, made.host_piece_bytes) == (pool_piece, host_piece)


@pytest.mark.parametrize(
    ("layout", "page_size", "out", "kernel"),
    [
        (DIRECT, 64, True, "cuda-staged"),  # the batch has 93 %
        (DIRECT, 16, False, "batch"),  # 77 %, and the kernel has 80 %
        (DIRECT, 8, False, "cuda"),
        (PAGE_FIRST, 16, True, "cuda-staged"),
        (PAGE_FIRST, 16, False, "cuda"),
        (LAYER_FIRST, 1, True, "cuda"),
    ],
)
def test_the_best_is_chosen(layout: HostLayout, page_size: int, out: bool, kernel: str) -> None:
    """Long pieces go in a batch, long ones on the host alone by a stage, short ones by the kernel."""
    chosen = choose(shape(layout, page_size, out=out), ALL, MADE_UP)
    assert chosen.kernel == kernel
    assert chosen.why.startswith("shares of 50.0 GB/s expected: batch ")


def test_what_computes_nothing_is_preferred_when_it_is_almost_as_good() -> None:
    """A batch of 128 KiB is within a twentieth of a stage."""
    quick = Link(50e9, 40e9, 50e-9)
    assert choose(shape(DIRECT, 64), ALL, quick).kernel == "batch"
    assert choose(shape(DIRECT, 16), ALL, quick).kernel == "cuda-staged"


def test_what_cannot_run_is_not_chosen() -> None:
    """And when nothing can but the reference, the reasons are told."""
    no_nvcc = {name: "no nvcc" if name in {"batch", "cuda", "cuda-staged"} else None for name in KERNELS}
    assert choose(shape(DIRECT, 16), no_nvcc, MADE_UP).kernel == "triton"
    nothing = dict.fromkeys(KERNELS, "not here") | {"reference": None}
    chosen = choose(shape(DIRECT, 16), nothing, MADE_UP)
    assert chosen.kernel == "reference"
    assert "batch: not here; cuda: not here" in chosen.why


def test_without_figures_the_kernel_that_depends_least_on_shapes_is_chosen() -> None:
    """That is ours; in Triton where there is no compiler."""
    assert choose(shape(DIRECT, 16), ALL, None).kernel == "cuda"
    assert choose(shape(DIRECT, 16), {"triton": None, "cuda": "no nvcc"}, None).kernel == "triton"


@given(
    st.builds(
        Shape, st.sampled_from(HostLayout), st.integers(1, 64), st.integers(1, 1 << 16), st.just(9), st.booleans()
    ),
    st.builds(Link, st.floats(1e9, 1e12), st.none() | st.floats(1e8, 1e12), st.floats(0, 1e-4)),
    st.sets(st.sampled_from(sorted(KERNELS))),
)
def test_a_choice_can_run(made: Shape, figures: Link, refused: set[str]) -> None:
    """Whatever was measured, and whatever is missing."""
    refusals = {name: "not here" if name in refused else None for name in KERNELS}
    assert choose(made, refusals, figures).kernel in {*KERNELS.keys() - refused, "reference"}


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_the_environment_has_its_way(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every kernel that there is."""
    monkeypatch.setenv("AUTELLIX_SWAP_KERNEL", kernel)
    chosen = choice(*pools(KINDS[0], PAGE_FIRST), Direction.OUT)
    assert (chosen.kernel, chosen.why) == (kernel, "AUTELLIX_SWAP_KERNEL says so")


@pytest.mark.usefixtures("asked_anew")
def test_in_one_memory_plain_indexing_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled or measured without a GPU."""
    monkeypatch.delenv("AUTELLIX_SWAP_KERNEL", raising=False)
    chosen = choice(*pools(KINDS[0], PAGE_FIRST), Direction.IN)
    assert (chosen.kernel, chosen.why) == ("reference", "there is no GPU, so that both pools are in the same memory")


def test_settings_without_a_meaning_are_refused() -> None:
    """The message has the variable and what it may be; empty is not set."""
    with pytest.raises(ConfigurationError, match="AUTELLIX_SWAP_KERNEL is fastest; unset it, or choose one of: ref"):
        Settings.from_environment(["reference"], {"AUTELLIX_SWAP_KERNEL": "fastest"})
    with pytest.raises(ConfigurationError, match="AUTELLIX_SWAP_DEBUG is yes; it has to be 0 or 1"):
        Settings.from_environment([], {"AUTELLIX_SWAP_DEBUG": "yes"})
    empty = {"AUTELLIX_SWAP_KERNEL": "", "AUTELLIX_SWAP_DEBUG": ""}
    assert Settings.from_environment([], empty) == Settings(None, False)
    assert Settings.from_environment([], {"AUTELLIX_SWAP_DEBUG": "1"}).debug


@pytest.mark.parametrize("direction", Direction)
def test_a_link_is_measured(direction: Direction, device: str) -> None:
    """Rates are above nothing, on a GPU by its clock."""
    figures = link.measure(torch.device(device), direction, bulk_bytes=1 << 20)
    assert figures.bulk_bytes_s > 0
    assert figures.mapped_bytes_s is None or figures.mapped_bytes_s > 0
    assert figures.copy_s >= 0


def test_without_memory_the_link_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine has taken all of the GPU's or the host's, and goes on; any other error is told."""
    unmeasured = link.measured.__wrapped__

    def fail_with(error: RuntimeError) -> None:
        def fail(*_: object) -> Link:
            raise error

        monkeypatch.setattr(link, "measure", fail)

    for none_left in (torch.OutOfMemoryError("no 64 MiB left"), torch.AcceleratorError("CUDA error: out of memory")):
        fail_with(none_left)
        assert unmeasured(torch.device("cpu"), Direction.OUT) is None
    fail_with(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(torch.AcceleratorError, match="illegal"):
        unmeasured(torch.device("cpu"), Direction.OUT)
