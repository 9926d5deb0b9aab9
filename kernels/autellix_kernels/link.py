"""Measuring the link between a device and host memory: what one large copy reaches, and what small ones cost."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from autellix_kernels.cuda.kernels import BatchSwap, CudaSwap
from autellix_kernels.layout import HostLayout
from autellix_kernels.pools import DevicePool, HostPool
from autellix_kernels.select import Link
from autellix_kernels.transfer import Direction, SwapKernel, Transfer

BULK_BYTES = 64 << 20
"""Bytes of the large copy."""

ROW_BYTES = 2048
"""Bytes of a row in what a kernel copies to be measured: keys of a token in a layer, 8 heads of 128 in 16 bits."""

REPEATS = 5
"""Times that each copy is measured; the fastest counts, as everything else that happens makes it slower."""

LONG_S = 2.0
"""Seconds after which a copy is not measured again."""


def measure(device: torch.device, direction: Direction, *, bulk_bytes: int = BULK_BYTES) -> Link:
    """Return what is measured now; a tenth of a second on a GPU, which should have nothing else to do.

    Args:
        device: one end of the link; for a CPU it is memory to memory.
        direction: from its point of view.
        bulk_bytes: of the large copy, a multiple of `ROW_BYTES`.
    """
    slots = bulk_bytes // ROW_BYTES
    device_pool = DevicePool([[torch.zeros(slots, 1, ROW_BYTES, dtype=torch.uint8, device=device)]])
    host_pool = HostPool.beside(device_pool, HostLayout.LAYER_FIRST, pages=slots, page_size=1)
    host_pool.buffers[0].zero_()
    ends = (host_pool.buffers[0].flatten(), device_pool.components[0][0].flatten())
    target, source = ends if direction is Direction.OUT else ends[::-1]
    bulk_s = fastest_s(lambda: target.copy_(source, non_blocking=True), device)
    # No slot is adjacent to the next on both sides: every row is a copy.
    scattered = torch.arange(slots - 1, -1, -1)
    transfer = Transfer(device_pool, host_pool, scattered, scattered.flip(0), range(1), 0, direction)
    mapped_s = _kernel_s(CudaSwap(), transfer)
    batch_s = _kernel_s(BatchSwap(), transfer)
    return Link(
        bulk_bytes_s=bulk_bytes / bulk_s,
        mapped_bytes_s=None if mapped_s is None else bulk_bytes / mapped_s,
        copy_s=0.0 if batch_s is None else max(0.0, batch_s - bulk_s) / slots,
    )


@functools.cache
def measured(device: torch.device, direction: Direction) -> Link | None:
    """Return what `measure` found when it was first asked for; `None` if there was no memory left for that."""
    try:
        return measure(device, direction)
    except torch.OutOfMemoryError:
        return None
    except torch.AcceleratorError as error:  # which torch raises for pinned memory
        if "out of memory" not in str(error):
            raise
        return None


def fastest_s(action: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Return the seconds that an action takes on a device, after one that is not counted.

    Args:
        action: on a GPU what it puts into the current stream is measured.
        device: where.
        repeats: how often, at least once and no more after `LONG_S`; the fastest counts.
    """
    action()
    taken_s = [_seconds(action, device)]
    while len(taken_s) < repeats and sum(taken_s) < LONG_S:
        taken_s.append(_seconds(action, device))
    return min(taken_s)


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start_s = time.perf_counter()
        action()
        return time.perf_counter() - start_s
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record(torch.cuda.current_stream(device))
    action()
    end.record(torch.cuda.current_stream(device))
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def _kernel_s(kernel: SwapKernel, transfer: Transfer) -> float | None:
    device_pool = transfer.device_pool
    if kernel.refusal(device_pool.device) is not None:
        return None
    return fastest_s(lambda: kernel.copy(transfer), device_pool.device)
