"""The interface: KV of some tokens goes to host memory, all layers at once, and comes back layer by layer."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from autellix_kernels.checks import check_layer, check_pools, check_slots
from autellix_kernels.cuda.kernels import BatchSwap, CudaStagedSwap, CudaSwap
from autellix_kernels.errors import KernelUnavailable
from autellix_kernels.link import measured
from autellix_kernels.pools import DevicePool, HostPool
from autellix_kernels.reference import Reference
from autellix_kernels.select import SWITCH, Choice, Shape, choose
from autellix_kernels.settings import settings
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
    debug: bool | None = None,
) -> None:
    """Copy the KV of tokens from the device to host memory, in every layer.

    On a GPU this takes its turn in the current stream, and the host's memory has the KV when that stream has got there.

    Args:
        device_pool: read.
        host_pool: mutated, in the slots listed and nowhere else; pinned if the device is a GPU.
        device_slots: int64 ``[count]`` without gaps, in host memory or on the device, distinct, in any order.
        host_slots: likewise; they need not fill pages.
        kernel: name of the implementation; `None` for the one that the environment names, or else `choice`.
        debug: look for duplicates too; `None` for what the environment says.

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
    debug: bool | None = None,
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


def choice(device_pool: DevicePool, host_pool: HostPool, direction: Direction, *, by_address: bool = False) -> Choice:
    """Return which kernel serves swaps between two pools, and why.

    The first to ask on a GPU waits until kernels are compiled and the link is measured: ask when the engine starts.

    Args:
        device_pool: KV on the device.
        host_pool: KV in host memory.
        direction: all layers go out, and one at a time comes in.
        by_address: only kernels that follow addresses on the GPU are considered, those that `Route` is told of.

    Raises:
        ConfigurationError: the environment names a kernel that there is not.
    """
    layers = device_pool.layers if direction is Direction.OUT else 1
    shape = Shape(
        host_pool.layout, host_pool.page_size, min(device_pool.row_bytes), layers, all_layers=layers == host_pool.layers
    )
    return _choice(device_pool.device, shape, direction, by_address)


def available(name: str, device: torch.device) -> SwapKernel:
    """Return a kernel by its name.

    Raises:
        KernelUnavailable: there is none, or it cannot run on the device.
    """
    if name not in KERNELS:
        raise KernelUnavailable(f"there is no swap kernel {name}; choose one of: {', '.join(KERNELS)}")
    if reason := KERNELS[name].refusal(device):
        raise KernelUnavailable(f"swap kernel {name} cannot run on {device}: {reason}")
    return KERNELS[name]


def remember(*tensors: Tensor) -> None:
    """Keep what lies on a GPU until the current stream has read it, though the caller may forget it before."""
    for read in tensors:
        if read.is_cuda:
            read.record_stream(torch.cuda.current_stream(read.device))


def _refusal(kernel: SwapKernel, device: torch.device, by_address: bool) -> str | None:
    if by_address and kernel.slots_on_host and kernel.name != "reference":
        return "it copies in bulk, and lists of slots are on the GPU or host memory is not in one piece to it"
    return kernel.refusal(device)


@functools.cache
def _choice(device: torch.device, shape: Shape, direction: Direction, by_address: bool) -> Choice:
    if (named := settings(tuple(KERNELS)).kernel) is not None:
        return Choice(named, f"{SWITCH} says so")
    if device.type != "cuda":
        return Choice("reference", "there is no GPU, so that both pools are in the same memory")
    refusals = {name: _refusal(kernel, device, by_address) for name, kernel in KERNELS.items()}
    return choose(shape, refusals, measured(device, direction))


def _swap(
    device_pool: DevicePool,
    host_pool: HostPool,
    device_slots: Tensor,
    host_slots: Tensor,
    layers: range,
    direction: Direction,
    kernel: str | None,
    debug: bool | None,
) -> None:
    check_pools(device_pool, host_pool)
    duplicates = settings(tuple(KERNELS)).debug if debug is None else debug
    check_slots(device_pool, host_pool, device_slots, host_slots, duplicates=duplicates)
    if not len(device_slots):
        return
    name = kernel or choice(device_pool, host_pool, direction).kernel
    serving = available(name, device_pool.device)
    remember(device_slots, host_slots, device_pool.addresses)
    serving.copy(Transfer(device_pool, host_pool, device_slots, host_slots, layers, layers.start, direction))
