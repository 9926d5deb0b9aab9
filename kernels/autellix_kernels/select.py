"""Which implementation serves a swap, and why: decided from shapes and from what was measured of the link. Pure.

Each way of copying reaches a share of what one large copy reaches:

- `batch` loses a fixed time for every copy of a batch, and copies are as long as a page has memory in one piece;
- `cuda-staged` loses the same, but its copies hold all layers where the host has them side by side;
- `cuda` writes rows by itself and reaches what its kernel was measured to reach, and `triton` takes its place.

The best one serves. Of those that are almost as good the first in `PREFERENCE` does, as it takes less from the step
that computes meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autellix_kernels.layout import HostLayout

PREFERENCE = ("batch", "cuda", "cuda-staged", "triton")
"""First the one that needs no kernel at all, then the one that needs no memory, then the one that is compiled ahead."""

ALMOST = 0.05
"""Share of the link by which a preferred kernel may be behind the best."""

SWITCH = "AUTELLIX_SWAP_KERNEL"
"""Variable that names the kernel to use; without it the best one is chosen."""


@dataclass(frozen=True, slots=True)
class Link:
    """What was measured between a device and pinned host memory, in one direction.

    Attributes:
        bulk_bytes_s: rate of one large copy, in bytes a second.
        mapped_bytes_s: rate of a kernel that copies rows of `link.ROW_BYTES` by mapped addresses; `None` without one.
        copy_s: time that a copy in a batch costs on top of its bytes.
    """

    bulk_bytes_s: float
    mapped_bytes_s: float | None
    copy_s: float

    def share(self, piece_bytes: int) -> float:
        """Return the share of the link that copies of such a size reach in a batch."""
        return piece_bytes / (piece_bytes + self.copy_s * self.bulk_bytes_s)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a swap is like.

    Attributes:
        layout: of the host.
        page_size: tokens in a page of the host; they are adjacent on the device too.
        row_bytes: of a token in a layer of the smallest component.
        layers: how many are copied.
        all_layers: these are all that the host has.
    """

    layout: HostLayout
    page_size: int
    row_bytes: int
    layers: int
    all_layers: bool

    @property
    def pool_piece_bytes(self) -> int:
        """Bytes that a page has in one piece on both sides, in a layer of a component."""
        return self.row_bytes if self.layout is HostLayout.PAGE_FIRST else self.row_bytes * self.page_size

    @property
    def host_piece_bytes(self) -> int:
        """Bytes of a swap that a page of the host has in one piece."""
        if self.all_layers and self.layout is not HostLayout.LAYER_FIRST:
            return self.row_bytes * self.page_size * self.layers
        return self.pool_piece_bytes


@dataclass(frozen=True, slots=True)
class Choice:
    """A kernel by its name, and why it was chosen."""

    kernel: str
    why: str


def choose(shape: Shape, refusals: Mapping[str, str | None], link: Link | None) -> Choice:
    """Return the kernel for swaps of a shape between host memory and a GPU.

    Args:
        shape: of the swaps.
        refusals: for each kernel the reason why it cannot run, or `None`; `reference` can always run.
        link: in the direction of the swaps; `None` if there was no memory to measure it with.
    """
    candidates = [name for name in PREFERENCE if name in refusals and refusals[name] is None]
    if not candidates:
        reasons = "; ".join(f"{name}: {refusals[name]}" for name in PREFERENCE if name in refusals)
        return Choice("reference", f"nothing faster can run: {reasons}")
    if link is None:
        best = next((name for name in ("cuda", "triton") if name in candidates), candidates[0])
        return Choice(best, "the link was not measured, and this one depends least on the shape")
    shares = {name: _share(name, shape, link) for name in candidates}
    most = max(shares.values())
    best = next(name for name in candidates if shares[name] >= most - ALMOST)
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return Choice(best, f"shares of {link.bulk_bytes_s / 1e9:.1f} GB/s expected: {told}")


def _share(name: str, shape: Shape, link: Link) -> float:
    match name:
        case "batch":
            return link.share(shape.pool_piece_bytes)
        case "cuda-staged":
            return link.share(shape.host_piece_bytes)
        case _:
            return 0.0 if link.mapped_bytes_s is None else min(1.0, link.mapped_bytes_s / link.bulk_bytes_s)
