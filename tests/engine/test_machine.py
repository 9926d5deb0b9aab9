"""How many cores there are to use."""

from __future__ import annotations

from pathlib import Path

import pytest

from autellix_server.engine import machine

CORES = 8


@pytest.fixture(autouse=True)
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process run on eight cores."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(CORES)))


def kernel(folder: Path, membership: str, files: dict[str, str]) -> Path:
    """Make the files of a kernel: the groups of this process, and `files` below the control groups."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text(membership)
    for name, text in files.items():
        file = folder / "sys" / "fs" / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000\n", CORES),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("1000 100000\n", 1),
        ("9900000 100000\n", CORES),
    ],
)
def test_a_quota_limits_the_cores(tmp_path: Path, limit: str, cores: int) -> None:
    """Part of a core counts as one, and no quota adds cores."""
    assert machine.cores(kernel(tmp_path, "0::/\n", {"cpu.max": limit})) == cores


def test_the_smallest_quota_around_a_process_counts(tmp_path: Path) -> None:
    """A service's own may be larger than that of the slice it is in; the neighbours' do not matter."""
    quotas = {
        "system.slice/cpu.max": "300000 100000\n",
        "system.slice/agents.service/cpu.max": "600000 100000\n",
        "system.slice/other.service/cpu.max": "100000 100000\n",
    }
    assert machine.cores(kernel(tmp_path, "0::/system.slice/agents.service\n", quotas)) == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1\n", CORES), ("250000\n", 3)])
def test_version_1_has_a_hierarchy_for_the_cpu(tmp_path: Path, quota: str, cores: int) -> None:
    """In a container its root is the container's group, and the path that of the host."""
    membership = "5:memory:/docker/c0ffee\n4:cpu,cpuacct:/docker/c0ffee\n1:name=systemd:/\n0::/\n"
    files = {"cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": "100000\n"}
    assert machine.cores(kernel(tmp_path, membership, files)) == cores


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    """Some kernels have none."""
    assert machine.cores(tmp_path) == CORES
