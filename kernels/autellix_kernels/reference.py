"""A swap as plain indexing: what it is, on any device, and not how to do it fast."""

from __future__ import annotations

import torch

from autellix_kernels.transfer import Direction, Transfer, Work


class Reference:
    """The truth that every other implementation is held to."""

    name = "reference"
    slots_on_host = True

    def refusal(self, device: torch.device) -> None:
        """Return `None`: torch has indexing everywhere."""

    def copy(self, transfer: Transfer) -> Work:
        """Index one side and then the other, in each layer of each component; done on return, on a GPU too."""
        device_pool, host_pool = transfer.device_pool, transfer.host_pool
        device = device_pool.device
        if device.type == "cuda":
            # The host's memory is read by this thread, and what is to be read may still be on its way.
            torch.cuda.current_stream(device).synchronize()
        device_slots, host_slots = transfer.device_slots.to(device), transfer.host_slots.cpu()
        pages, places = host_slots // host_pool.page_size, host_slots % host_pool.page_size
        for component in range(len(device_pool.components)):
            for layer in transfer.layers:
                on_device, on_host = device_pool.rows(component, layer), host_pool.rows(component, layer)
                if transfer.direction is Direction.OUT:
                    on_host[pages, places] = on_device[device_slots].cpu()
                else:
                    on_device[device_slots] = on_host[pages, places].to(device)
        parts = len(device_pool.components) * len(transfer.layers)
        return Work(launches=2 * parts, copies=parts)
