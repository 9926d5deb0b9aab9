"""The interface: KV of some tokens goes to host memory, all layers at once, and comes back layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor

from autellix_kernels.checks import check_layer, check_pools, check_slots
from autellix_kernels.cuda.kernels import BatchSwap, CudaStagedSwap, CudaSwap
from autellix_kernels.errors import KernelUnavailable
from autellix_kernels.pools import DevicePool, HostPool
from autellix_kernels.reference import Reference
from autellix_kernels.transfer import Direction, SwapKernel, Transfer
from autellix_kernels.triton_swap import TritonSwap

KERNELS: dict[str, SwapKernel] = {
    kernel.name: kernel for kernel in (Reference(), TritonSwap(), CudaSwap(), CudaStagedSwap(), BatchSwap())
}
"""Every implementation, by its name."""


def swap_out(
    device_pool: DevicePool,
    host_pool: HostPool,
    device_slots: Tensor,
    host_slots: Tensor,
    *,
    kernel: str | None = None,
    debug: bool = False,
) -> None:
    """Copy the KV of tokens from the device to host memory, in every layer.

    On a GPU this takes its turn in the current stream, and the host's memory has the KV when that stream has got there.

    Args:
        device_pool: read.
        host_pool: mutated, in the slots listed and nowhere else; pinned if the device is a GPU.
        device_slots: int64 ``[count]`` without gaps, in host memory or on the device, distinct, in any order.
        host_slots: likewise; they need not fill pages.
        kernel: name of the implementation; `None` has one chosen.
        debug: look for duplicates too.

    Raises:
        SwapRefused: see `errors`; nothing has been copied.
        TransferFailed: CUDA has an error to report.
    """
    layers = range(device_pool.layers)
    _swap(device_pool, host_pool, device_slots, host_slots, layers, Direction.OUT, kernel, debug)


def swap_in(
    device_pool: DevicePool,
    host_pool: HostPool,
    device_slots: Tensor,
    host_slots: Tensor,
    layer: int,
    *,
    kernel: str | None = None,
    debug: bool = False,
) -> None:
    """Copy the KV of tokens from host memory to the device, in one layer, so that a step can begin with the first.

    On a GPU this takes its turn in the current stream; until that has got there, the host's memory must not change.

    Args:
        device_pool: mutated, in that layer of the slots listed and nowhere else.
        host_pool: read; pinned if the device is a GPU.
        device_slots: as in `swap_out`.
        host_slots: as in `swap_out`.
        layer: counted from 0.
        kernel: as in `swap_out`.
        debug: as in `swap_out`.

    Raises:
        SwapRefused: see `errors`; nothing has been copied.
        TransferFailed: CUDA has an error to report.
    """
    check_layer(layer, device_pool.layers)
    layers = range(layer, layer + 1)
    _swap(device_pool, host_pool, device_slots, host_slots, layers, Direction.IN, kernel, debug)


def _swap(
    device_pool: DevicePool,
    host_pool: HostPool,
    device_slots: Tensor,
    host_slots: Tensor,
    layers: range,
    direction: Direction,
    kernel: str | None,
    debug: bool,
) -> None:
    check_pools(device_pool, host_pool)
    check_slots(device_pool, host_pool, device_slots, host_slots, duplicates=debug)
    if not len(device_slots):
        return
    for slots in (device_slots, host_slots):
        if slots.is_cuda:
            # The caller may forget the list before this stream has read it.
            slots.record_stream(torch.cuda.current_stream(slots.device))
    chosen = KERNELS.get(kernel or "reference")
    if chosen is None:
        raise KernelUnavailable(f"there is no swap kernel {kernel}; choose one of: {', '.join(KERNELS)}")
    if reason := chosen.refusal(device_pool):
        raise KernelUnavailable(f"swap kernel {chosen.name} cannot run on {device_pool.device}: {reason}")
    chosen.copy(Transfer(device_pool, host_pool, device_slots, host_slots, layers, layers.start, direction))
