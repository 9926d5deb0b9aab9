"""Swaps between the same two pools, over and over: what all of them have in common is found out once. For engines."""

from __future__ import annotations

from torch import Tensor

from autellix_kernels.checks import check_pools, check_slots
from autellix_kernels.pools import DevicePool, HostPool
from autellix_kernels.settings import settings
from autellix_kernels.swap import KERNELS, available, choice, remember
from autellix_kernels.transfer import Direction, Transfer, Work, on_device


class Route:
    """Swaps in one direction between two pools, by one kernel.

    An operation is `prepare` once, and then `copy` as often as there are ranges of layers to copy, all in the same
    stream. On a GPU nothing here waits for a stream, unless `AUTELLIX_SWAP_KERNEL` names a kernel that needs lists of
    slots in host memory while they are on the GPU.

    Attributes:
        choice: the kernel, and why it.

    Args:
        device_pool: KV on the device.
        host_pool: KV in host memory.
        direction: which of them is read.
        by_address: on a GPU only kernels that follow addresses are chosen. The others wait for lists of slots that are
            on the GPU, and their bulk copies fail where host memory was pinned in parts.

    Raises:
        SwapRefused: the pools do not fit, or the kernel that the environment names cannot run here.
        ConfigurationError: the environment names a kernel that there is not.
    """

    def __init__(
        self, device_pool: DevicePool, host_pool: HostPool, direction: Direction, *, by_address: bool = False
    ) -> None:
        check_pools(device_pool, host_pool)
        self.choice = choice(device_pool, host_pool, direction, by_address=by_address)
        self._kernel = available(self.choice.kernel, device_pool.device)
        self._pools = device_pool, host_pool
        self._direction = direction

    def prepare(self, device_slots: Tensor, host_slots: Tensor) -> tuple[Tensor, Tensor]:
        """Check both lists, and return them where the kernel reads them.

        What is on a GPU is looked into only where `AUTELLIX_SWAP_DEBUG` says so, since that waits for the stream.

        Args:
            device_slots: int64 ``[count]`` without gaps, in host memory or on the device, distinct, in any order.
            host_slots: likewise.

        Raises:
            SlotError: a list cannot be served; nothing has been copied.
            WrongDevice: a list is elsewhere.
        """
        device = self._pools[0].device
        debug = settings(tuple(KERNELS)).debug
        check_slots(*self._pools, device_slots, host_slots, duplicates=debug, wait=debug)
        if self._kernel.slots_on_host:
            return device_slots.cpu(), host_slots.cpu()
        moved = on_device(device_slots, device), on_device(host_slots, device)
        remember(*moved, self._pools[0].addresses)
        return moved

    def copy(self, device_slots: Tensor, host_slots: Tensor, layers: range) -> Work:
        """Copy some layers, and return what that took.

        Args:
            device_slots: as `prepare` returned them.
            host_slots: likewise.
            layers: adjacent ones of those that the pools have.

        Raises:
            TransferFailed: CUDA has an error to report; the slots to be written hold anything.
        """
        if not len(device_slots):
            return Work()
        return self._kernel.copy(
            Transfer(*self._pools, device_slots, host_slots, layers, layers.start, self._direction)
        )
