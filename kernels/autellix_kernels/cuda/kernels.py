"""The kernels that the compiled library offers: straight, by way of a stage, and the driver's own batches."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from autellix_kernels.cuda.library import load
from autellix_kernels.errors import KernelUnavailable
from autellix_kernels.pools import HostPool
from autellix_kernels.runs import pool_copies, stage_copies
from autellix_kernels.transfer import Direction, Geometry, Transfer, Work, on_device

STAGE_BYTES = 64 << 20
"""Device memory that a stage takes for the length of a swap, unless one page needs more."""


class Compiled:
    """What those have in common that are made of the library's functions."""

    launches = True
    """It has kernels of its own, and not the driver's copies alone."""

    def refusal(self, device: torch.device) -> str | None:
        """Return why it cannot run: it cannot be compiled here, by the first who asks, or the GPU cannot run it.

        Without a GPU the same code runs on the host, for tests.
        """
        try:
            library = load()
        except KernelUnavailable as error:
            return str(error)
        return library.refusal(device, launches=self.launches) if device.type == "cuda" else None


class CudaSwap(Compiled):
    """One kernel that reads one pool and writes the other, the host's pinned memory by its mapped address."""

    name = "cuda"
    slots_on_host = False

    def copy(self, transfer: Transfer) -> Work:
        """Copy, one launch for each component."""
        pool, layers = transfer.device_pool, transfer.layers
        device_slots, host_slots = (
            on_device(slots, pool.device) for slots in (transfer.device_slots, transfer.host_slots)
        )
        for component in range(len(pool.components)):
            load().swap_rows(
                Geometry.of(transfer, component),
                pool.addresses[component, layers.start : layers.stop],
                device_slots,
                host_slots,
                transfer.host_pool.page_size,
                transfer.direction,
            )
        return Work(launches=len(pool.components))


class CudaStagedSwap(Compiled):
    """The same kernel between the device pool and a stage beside it, and bulk copies between the stage and the host.

    The stage is laid out as the host is, and its pages are in the host's order: what is adjacent there is one copy,
    all of a swap at best. A swap larger than the stage goes in several turns; where the GPU has no memory for a stage,
    the kernel goes straight.

    Args:
        stage_bytes: memory for the stage.
    """

    name = "cuda-staged"
    slots_on_host = True

    def __init__(self, stage_bytes: int = STAGE_BYTES) -> None:
        self._stage_bytes = stage_bytes

    def copy(self, transfer: Transfer) -> Work:
        """Copy, in each turn one launch for each component and the copies in one batch."""
        host_slots, order = transfer.host_slots.cpu().sort()
        device_slots = transfer.device_slots.cpu()[order]
        page_size = transfer.host_pool.page_size
        pages, page_of = torch.unique_consecutive(host_slots // page_size, return_inverse=True)
        try:
            stage = self._stage(transfer, len(pages))
        except torch.OutOfMemoryError:
            return CudaSwap().copy(transfer)
        pages_a_turn = stage.slots // page_size
        ends = torch.searchsorted(page_of, torch.arange(0, len(pages) + pages_a_turn, pages_a_turn)).tolist()
        work = Work()
        for start, end in pairwise(ends):
            turn = replace(transfer, device_slots=device_slots[start:end], host_slots=host_slots[start:end])
            places = page_of[start:end] % pages_a_turn * page_size + turn.host_slots % page_size
            work += self._turn(turn, stage, places)
        return work

    def _turn(self, turn: Transfer, stage: HostPool, stage_slots: Tensor) -> Work:
        """Copy what fits into the stage; the stream keeps the two steps, and the turns, in order."""
        near = replace(turn, host_pool=stage, host_slots=stage_slots, host_layer=0)
        bulk = stage_copies(stage, stage_slots, turn), turn.device_pool.device, turn.direction
        if turn.direction is Direction.OUT:
            gathered = CudaSwap().copy(near)
            return gathered + load().copy_runs(*bulk)
        copied = load().copy_runs(*bulk)
        return copied + CudaSwap().copy(near)

    def _stage(self, transfer: Transfer, pages: int) -> HostPool:
        """Return a stage for as many pages as its memory allows, at least one and at most those of the transfer."""
        pool, page_size, layers = transfer.device_pool, transfer.host_pool.page_size, len(transfer.layers)
        page_bytes = sum(pool.row_bytes) * layers * page_size
        room = max(1, min(pages, self._stage_bytes // page_bytes))
        return HostPool.stage(transfer.host_pool, layers=layers, pages=room, device=pool.device)


class BatchSwap(Compiled):
    """The driver's own copies, in one batch: one for every run of slots that are adjacent on both sides, in a layer.

    Without any kernel: the GPU computes undisturbed, and copies of large runs reach the speed of the link.
    """

    name = "batch"
    slots_on_host = True
    launches = False

    def copy(self, transfer: Transfer) -> Work:
        """Copy, in one call of the driver."""
        return load().copy_runs(pool_copies(transfer), transfer.device_pool.device, transfer.direction)
