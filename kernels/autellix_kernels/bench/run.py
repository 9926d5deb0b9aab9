"""Measuring swaps, one after the other, on a device with nothing else to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from autellix_kernels.bench.models import Model, pools, transfers
from autellix_kernels.bench.rivals import RIVALS, asked
from autellix_kernels.layout import HostLayout
from autellix_kernels.link import fastest_s
from autellix_kernels.select import Choice, Link
from autellix_kernels.swap import KERNELS, choice
from autellix_kernels.transfer import Direction, SwapKernel, Transfer, Work

BLOCKS = (16, 64, 256, 1024)
"""Blocks of a call that are swapped, on a GPU."""

HOST_BLOCKS = (16, 64)
"""The same without one."""

HOST_BULK_BYTES = 16 << 20
"""Bytes of the large copy without a GPU."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        device: where device pools are.
        models: whose KV.
        blocks: how many are swapped, one after the other.
        layout: of the host.
        page_size: tokens in a block.
        links: what was measured of the link, by direction.
    """

    device: torch.device
    models: Sequence[Model]
    blocks: Sequence[int]
    layout: HostLayout
    page_size: int
    links: Mapping[Direction, Link]


@dataclass(frozen=True, slots=True)
class Figure:
    """What a swap took.

    Attributes:
        model: name of the model.
        direction: out or in; in is one transfer for each layer.
        blocks: how many were swapped.
        kernel: name of the kernel.
        chosen: it is the one that would be chosen.
        moved_bytes: bytes of the swap.
        swap_s: seconds, the fastest of a few.
        link_share: of what one large copy reached in this run.
        launches: kernels started and calls of the driver.
        copies: of which the calls of the driver are made.
    """

    model: str
    direction: Direction
    blocks: int
    kernel: str
    chosen: bool
    moved_bytes: int
    swap_s: float
    link_share: float
    launches: int
    copies: int

    @property
    def bytes_s(self) -> float:
        """The rate."""
        return self.moved_bytes / self.swap_s

    def to_json(self) -> dict[str, object]:
        """Return everything, for machines."""
        return asdict(self) | {"bytes_s": self.bytes_s}


def contenders(device: torch.device) -> tuple[list[SwapKernel], dict[str, str]]:
    """Return what can be measured on a device, and why the others cannot.

    Without a GPU our kernels would only be rehearsed, in an interpreter or on the host: what then counts is left.
    """
    able: list[SwapKernel] = []
    unable: dict[str, str] = {}
    for kernel in (*KERNELS.values(), *RIVALS):
        reason = kernel.refusal(device)
        if device.type != "cuda" and kernel.name not in {"reference", "per-block"}:
            reason = reason or "it is made for a GPU"
        if reason is None:
            able.append(kernel)
        else:
            unable[kernel.name] = reason
    return able, unable


def figures(plan: Plan) -> Iterator[Figure]:
    """Yield what was measured, as it is measured."""
    for model in plan.models:
        for blocks in plan.blocks:
            yield from _figures(plan, model, blocks)


def _figures(plan: Plan, model: Model, blocks: int) -> Iterator[Figure]:
    """Yield those of one pair of pools, which are gone before the next one is made."""
    able, _ = contenders(plan.device)
    both = pools(model, plan.layout, blocks=blocks, page_size=plan.page_size, device=plan.device)
    for direction in Direction:
        parts, chosen = transfers(*both, blocks, direction), choice(*both, direction)
        for kernel in able:
            if mine := asked(kernel, parts):
                yield _figure(plan, model, blocks, kernel, mine, chosen)


def _figure(
    plan: Plan, model: Model, blocks: int, kernel: SwapKernel, parts: Sequence[Transfer], chosen: Choice
) -> Figure:
    direction, moved = parts[0].direction, sum(part.moved_bytes for part in parts)

    def swap() -> Work:
        return sum((kernel.copy(part) for part in parts), Work())

    work = swap()
    swap_s = fastest_s(swap, plan.device)
    return Figure(
        model=model.name,
        direction=direction,
        blocks=blocks,
        kernel=kernel.name,
        chosen=kernel.name == chosen.kernel,
        moved_bytes=moved,
        swap_s=swap_s,
        link_share=moved / swap_s / plan.links[direction].bulk_bytes_s,
        launches=work.launches,
        copies=work.copies,
    )
