"""The memory of a server's processes, as the kernel counts it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of some processes together, in bytes.

    Attributes:
        processes: how many there are.
        rss_bytes: resident; pages that several of them have count for each.
        pss_bytes: resident; pages that several processes have are divided among them.
        peak_rss_bytes: sum of the most that each ever had.
    """

    processes: int
    rss_bytes: int
    pss_bytes: int
    peak_rss_bytes: int


def memory_of(pids: Iterable[int], proc: Path = _PROC) -> Memory:
    """Return the memory of those processes that are alive.

    Args:
        pids: the processes.
        proc: where the kernel shows them.
    """
    found = []
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            rollup, status = (_sizes(proc / str(pid) / name) for name in ("smaps_rollup", "status"))
            found.append((rollup["Rss"], rollup["Pss"], status["VmHWM"]))
    rss, pss, peak = (sum(column) for column in zip(*found, strict=True)) if found else (0, 0, 0)
    return Memory(len(found), rss, pss, peak)


def _sizes(table: Path) -> dict[str, int]:
    """Read the lines ``Name: N kB``; other lines are left out."""
    fields = (line.split() for line in table.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if words[-1:] == ["kB"]}
