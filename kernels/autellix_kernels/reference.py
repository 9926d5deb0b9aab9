"""A swap as plain indexing: what it is, on any device, and not how to do it fast."""

from __future__ import annotations

import torch
from torch import Tensor

from autellix_kernels.layout import access_bytes
from autellix_kernels.transfer import Direction, Transfer, Work

_WORDS = {16: torch.int64, 8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


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
                on_device, on_host = _words(device_pool.rows(component, layer), host_pool.rows(component, layer))
                if transfer.direction is Direction.OUT:
                    on_host[pages, places] = on_device[device_slots].cpu()
                else:
                    on_device[device_slots] = on_host[pages, places].to(device)
        parts = len(device_pool.components) * len(transfer.layers)
        return Work(launches=2 * parts, copies=parts)


def _words(*sides: Tensor) -> tuple[Tensor, ...]:
    """Return rows of bytes as rows of the widest words that all sides allow: torch indexes word by word."""
    width = access_bytes(
        *(number for rows in sides for number in (rows.storage_offset(), rows.shape[-1], *rows.stride()[:-1]))
    )
    return tuple(rows.view(_WORDS[width]) for rows in sides)
