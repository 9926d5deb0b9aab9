"""What this machine has, read without changing anything."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from math import ceil
from pathlib import Path

from autellix_server.engine.home import Device


def cores(root: Path = Path("/")) -> int:
    """Return how many CPU cores' time this process may use, 1 or more; part of one more counts as one.

    Args:
        root: folder with the kernel's `proc` and `sys`.
    """
    return ceil(min([len(core_numbers()), *_cpu_quotas(root)]))


def core_numbers() -> list[int]:
    """Return the numbers of the CPU cores that this process may use, in order."""
    return sorted(os.sched_getaffinity(0))


def memory_gb() -> float:
    """Return the memory this process may use in all: the machine's, or its control group's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no version 2 control groups, or "max"
        return total / 1e9
    return min(total, limit) / 1e9


def available_memory_gb() -> float:
    """Return the memory this process could take now: the machine's, or its control group's if that is less."""
    available = _fields(Path("/proc/meminfo"))["MemAvailable:"] * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text()) - _fields(group / "memory.stat")["inactive_file"]
    except (OSError, ValueError):  # no version 2 control groups, or "max"
        return available / 1e9
    return max(0, min(available, limit - used)) / 1e9


def _fields(table: Path) -> dict[str, int]:
    """Read a file of the kernel's with a name and a number on every line."""
    return {name: int(value) for name, value, *_ in map(str.split, table.read_text().splitlines())}


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the cores' time that each control group around this process allows, where one is limited."""
    groups = root / "sys/fs/cgroup"
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # a kernel without control groups
        return
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 1 has a hierarchy for each controller, version 2 one for all. In a container the path may be that of
        # the host, whose folders are not there.
        top = groups / "cpu" if controllers else groups
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield from _cpu_quota(folder)


def _cpu_quota(group: Path) -> Iterator[float]:
    """Yield the cores' time that one control group allows, if it is limited."""
    try:
        if (limit := group / "cpu.max").exists():
            quota, period = limit.read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    except OSError:
        return
    if quota.strip() not in {"max", "-1"}:
        yield int(quota) / int(period)


def nvidia_gpus() -> tuple[str, ...]:
    """Return the names of the NVIDIA GPUs that the driver offers, none without a working driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(name.strip() for name in answer.stdout.splitlines() if name.strip())


def best_device() -> Device:
    """Return `cuda` where there is a usable NVIDIA GPU, else `cpu`."""
    return "cuda" if nvidia_gpus() else "cpu"


def port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def folder_bytes(folder: Path) -> int:
    """Return the disk space that the files in `folder` take, in bytes."""
    return sum(entry.lstat().st_blocks * 512 for entry in folder.rglob("*"))
