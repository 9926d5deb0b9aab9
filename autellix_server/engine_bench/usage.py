"""What processes take of the machine, as the kernel counts it: memory, and the time of its cores."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


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
    return {
        words[0].rstrip(":"): int(words[1]) * 1024
        for words in fields
        if len(words) == 3 and words[1].isdecimal() and words[2] == "kB"
    }


def cores_s(proc: Path = _PROC) -> float:
    """Return for how many seconds all cores together have worked since the machine started, for whomever."""
    user, nice, system, _idle, _waiting, *interrupts_and_steal = _ticks(proc / "stat")[:8]
    return (user + nice + system + sum(interrupts_and_steal)) / _TICKS_PER_S


def cores_s_of(pids: Iterable[int], proc: Path = _PROC) -> float:
    """Return for how many of them they have worked for those processes that are alive."""
    ticks = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            # The command name, in parentheses, may itself hold spaces and parentheses.
            fields = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_S


def _ticks(stat: Path) -> list[int]:
    """Read the line of all cores together."""
    return [int(word) for word in stat.read_text().splitlines()[0].split()[1:]]
