"""Memory that a pair of pools takes, and what there is; Linux's own figures, a container's limit included."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from autellix_kernels.bench.models import Model

SPARE_BYTES = 1 << 30
"""What is left free on either side, for stages, lists, and everything else that runs."""

UNKNOWN_BYTES = 1 << 62
"""What is taken to be free where the system does not say."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on either side; without a GPU all of them are the host's.

    Attributes:
        host: of host memory, pinned where there is a GPU.
        gpu: of the GPU's.
    """

    host: int
    gpu: int = 0

    @classmethod
    def of_pools(cls, model: Model, *, blocks: int, page_size: int, pinned: bool) -> Memory:
        """Return what pools for so many blocks take, with room for as many again.

        Args:
            model: whose KV.
            blocks: that go out; as many come in.
            page_size: tokens in a block.
            pinned: there is a GPU; torch takes pinned memory by the power of two, for keys and for values.
        """
        parts = [2 * blocks * page_size * size for size in model.component_bytes]
        if not pinned:
            return cls(2 * sum(parts))
        return cls(sum(1 << (part - 1).bit_length() for part in parts), sum(parts))

    @classmethod
    def free(cls, device: torch.device) -> Memory:
        """Return what is free now."""
        return cls(free_host_bytes(), torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0)

    def lacking(self, free: Memory) -> str | None:
        """Return what there is not enough of, and how much; `None` if it fits and leaves something.

        Args:
            free: what there is.
        """
        lacks = [
            f"{need / 1e9:.1f} GB of {what}, of which {there / 1e9:.1f} GB are free and {SPARE_BYTES / 1e9:.1f} stay so"
            for what, need, there in (("host memory", self.host, free.host), ("the GPU's memory", self.gpu, free.gpu))
            if need and need + SPARE_BYTES > there
        ]
        return f"the pools take {' and '.join(lacks)}" if lacks else None


def free_host_bytes(root: Path = Path("/")) -> int:
    """Return the bytes of host memory that are to be had: the machine's, or those of a container if that is less.

    Args:
        root: folder with Linux's `proc` and `sys`.
    """
    try:
        available = _fields(root / "proc/meminfo")["MemAvailable:"] * 1024
    except OSError:  # no Linux
        return UNKNOWN_BYTES
    group = root / "sys/fs/cgroup"
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text()) - _fields(group / "memory.stat")["inactive_file"]
    except (OSError, ValueError):  # no version 2 control groups, or "max"
        return available
    return max(0, min(available, limit - used))


def _fields(table: Path) -> dict[str, int]:
    """Read a file of the kernel's with a name and a number on every line."""
    return {name: int(value) for name, value, *_ in map(str.split, table.read_text().splitlines())}
