"""What processes take of the machine, as the kernel counts it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autellix_server.engine_bench.usage import Memory, cores_s, cores_s_of, memory_of


def write_process(proc: Path, pid: int, rss: int, pss: int, peak: int) -> None:
    """Write what the kernel would show of a process, in kB."""
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "smaps_rollup").write_text(f"5000-7fff ---p 00 00:00 0 [rollup]\nRss: {rss} kB\nPss:  {pss} kB\n")
    (folder / "status").write_text(f"Name:\tpython kB\nVmHWM:\t {peak} kB\nThreads:\t3\n")


def test_processes_are_added_up_and_those_that_ended_are_left_out(tmp_path: Path) -> None:
    """In bytes."""
    write_process(tmp_path, 7, rss=100, pss=60, peak=120)
    write_process(tmp_path, 8, rss=50, pss=20, peak=70)
    assert memory_of([7, 8, 9], tmp_path) == Memory(2, 150 * 1024, 80 * 1024, 190 * 1024)


def test_a_live_process_has_what_the_kernel_says() -> None:
    """This one: no more of its own than in all, and never more than at its peak."""
    found = memory_of([os.getpid()])
    assert found.processes == 1
    assert 10e6 < found.pss_bytes <= found.rss_bytes <= found.peak_rss_bytes


def test_no_process_has_no_memory(tmp_path: Path) -> None:
    """All have ended."""
    assert memory_of([1], tmp_path) == Memory(0, 0, 0, 0)


def test_the_time_of_cores_is_that_of_all_work(tmp_path: Path) -> None:
    """Waiting is no work, and guests are in the time of users already; what the hypervisor took is work of others'."""
    (tmp_path / "stat").write_text("cpu  100 20 30 9000 700 5 6 7 40 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    for pid, user in ((7, 50), (8, 30)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) b) S 1 7 7 0 -1 0 0 0 0 0 {user} 10 99 99 20 0")
    hundredths = os.sysconf("SC_CLK_TCK") / 100
    assert cores_s(tmp_path) * hundredths == pytest.approx(1.68)
    assert cores_s_of([7, 8, 9], tmp_path) * hundredths == pytest.approx(1.0)


def test_work_of_this_process_is_found_in_both() -> None:
    """It has worked for a while by now, and the machine for at least as long."""
    assert 0.1 < cores_s_of([os.getpid()]) < cores_s()
