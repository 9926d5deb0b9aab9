"""Measuring swaps, one after the other and both ways at once, on a device with nothing else to do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from autellix_kernels.bench.memory import Memory
from autellix_kernels.bench.models import Model, pools, transfers
from autellix_kernels.bench.rivals import RIVALS, asked
from autellix_kernels.layout import HostLayout
from autellix_kernels.link import fastest_s
from autellix_kernels.select import Link
from autellix_kernels.swap import KERNELS, choice
from autellix_kernels.transfer import Direction, SwapKernel, Transfer, Work

BLOCKS = (16, 64, 256, 1024)
"""Blocks of a call that are swapped, on a GPU."""

HOST_BLOCKS = (16, 64)
"""The same without one."""

HOST_BULK_BYTES = 16 << 20
"""Bytes of the large copy without a GPU."""

BOTH = "both"
"""What figures call out and in at once."""


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
        direction: out, or in, which is one transfer for each layer, or both at once, of different slots.
        blocks: how many were swapped; as many each way, if both.
        kernel: name of the kernel; of the one out and the one in, if they are two.
        chosen: it is the one that would be chosen.
        moved_bytes: bytes of the swap.
        swap_s: seconds, the fastest of a few.
        link_share: of what one large copy reached in this run; of two such copies' rates together, if both.
        times_alone: of both, `swap_s` by that of the slower direction alone: 1 where neither has to wait for the other;
            `None` of one direction.
        launches: kernels started and calls of the driver.
        copies: of which the calls of the driver are made.
    """

    model: str
    direction: str
    blocks: int
    kernel: str
    chosen: bool
    moved_bytes: int
    swap_s: float
    link_share: float
    times_alone: float | None
    launches: int
    copies: int

    @property
    def bytes_s(self) -> float:
        """The rate."""
        return self.moved_bytes / self.swap_s

    def to_json(self) -> dict[str, object]:
        """Return everything, for machines."""
        return asdict(self) | {"bytes_s": self.bytes_s}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What was not measured, as there is no memory for its pools.

    Attributes:
        model: name of the model.
        blocks: how many would have been swapped.
        why: what there is not enough of.
    """

    model: str
    blocks: int
    why: str


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


def figures(plan: Plan, begun: Callable[[Model, int], None] = lambda model, blocks: None) -> Iterator[Figure | LeftOut]:
    """Yield what was measured, as it is measured.

    Args:
        plan: what to measure.
        begun: told what is measured next.
    """
    gpu = plan.device.type == "cuda"
    for model in plan.models:
        for blocks in plan.blocks:
            begun(model, blocks)
            if gpu:
                # Pools before this one are gone; torch would keep their memory.
                torch.cuda.empty_cache()
                torch.accelerator.empty_host_cache()
            need = Memory.of_pools(model, blocks=blocks, page_size=plan.page_size, pinned=gpu)
            if why := need.lacking(Memory.free(plan.device)):
                yield LeftOut(model.name, blocks, why)
            else:
                yield from _figures(plan, model, blocks)


def _figures(plan: Plan, model: Model, blocks: int) -> Iterator[Figure | LeftOut]:
    """Yield those of one pair of pools, which are gone before the next one is made."""
    able, _ = contenders(plan.device)
    try:
        both = pools(model, plan.layout, blocks=blocks, page_size=plan.page_size, device=plan.device)
    except RuntimeError as error:  # which torch raises for memory, of a type for each kind of it
        yield LeftOut(model.name, blocks, str(error).partition("\n")[0])
        return
    parts = {direction: transfers(*both, blocks, direction) for direction in Direction}
    chosen = {direction: choice(*both, direction).kernel for direction in Direction}
    alone: dict[tuple[Direction, str], tuple[Swap, Figure]] = {}
    for direction in Direction:
        for kernel in able:
            if mine := asked(kernel, parts[direction]):
                swap = Swap(kernel, mine)
                figure = _figure(plan, model, blocks, [swap], chosen=kernel.name == chosen[direction])
                alone[direction, kernel.name] = swap, figure
                yield figure
    pairs = [(name, name) for direction, name in alone if direction is Direction.OUT]
    mixed = chosen[Direction.OUT], chosen[Direction.IN]
    if mixed not in pairs and all((direction, chosen[direction]) in alone for direction in Direction):
        pairs.append(mixed)
    for out, inward in pairs:
        ways = [alone[Direction.OUT, out], alone[Direction.IN, inward]]
        slower_s = max(figure.swap_s for _, figure in ways)
        swaps = [swap for swap, _ in ways]
        yield _figure(plan, model, blocks, swaps, chosen=(out, inward) == mixed, slower_s=slower_s)


@dataclass(frozen=True, slots=True)
class Swap:
    """A swap in one direction, which anybody may ask for as often as they like.

    Attributes:
        kernel: what copies.
        parts: what is copied, at least one transfer.
    """

    kernel: SwapKernel
    parts: Sequence[Transfer]

    def __call__(self) -> Work:
        """Copy, in the current stream on a GPU."""
        return sum((self.kernel.copy(part) for part in self.parts), Work())


def at_once(device: torch.device, swaps: Sequence[Callable[[], Work]]) -> Work:
    """Ask for swaps that begin together, each in a stream of its own; without a GPU they are done one after the other.

    Args:
        device: a GPU's current stream goes on when all of them are done.
        swaps: at most two; one thread asks for them in this order, as that of an engine would.
    """
    if device.type != "cuda":
        return sum((swap() for swap in swaps), Work())
    current, streams = torch.cuda.current_stream(device), _streams(device)[: len(swaps)]
    for stream in streams:
        stream.wait_stream(current)
    work = Work()
    for stream, swap in zip(streams, swaps, strict=True):
        with torch.cuda.stream(stream):
            work += swap()
    for stream in streams:
        current.wait_stream(stream)
    return work


@functools.cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    return torch.cuda.Stream(device), torch.cuda.Stream(device)


def _figure(
    plan: Plan, model: Model, blocks: int, swaps: Sequence[Swap], *, chosen: bool, slower_s: float | None = None
) -> Figure:
    """Measure one swap, or two at once, of which the slower alone took `slower_s`."""
    works: list[Work] = []
    swap_s = fastest_s(lambda: works.append(at_once(plan.device, swaps)), plan.device)
    directions = [swap.parts[0].direction for swap in swaps]
    moved = sum(part.moved_bytes for swap in swaps for part in swap.parts)
    link_bytes_s = sum(plan.links[direction].bulk_bytes_s for direction in directions)
    return Figure(
        model=model.name,
        direction=BOTH if len(swaps) > 1 else directions[0],
        blocks=blocks,
        kernel="+".join(dict.fromkeys(swap.kernel.name for swap in swaps)),
        chosen=chosen,
        moved_bytes=moved,
        swap_s=swap_s,
        link_share=moved / swap_s / link_bytes_s,
        times_alone=None if slower_s is None else swap_s / slower_s,
        launches=works[0].launches,
        copies=works[0].copies,
    )
