"""Running `autellix serve` with the real engine, and making sure that nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx

START_LIMIT_S = 240
SLOTS = 4
"""Calls that the shared server runs at once; further ones queue."""


@dataclass(frozen=True)
class Server:
    """A running `autellix serve`.

    Attributes:
        process: the gateway's process.
        url: the gateway's address, without a path.
        ready: its ready event.
    """

    process: subprocess.Popen[str]
    url: str
    ready: dict[str, Any]

    @property
    def base_url(self) -> str:
        """What an OpenAI client is pointed at."""
        return f"{self.url}/v1"

    @property
    def engine_pid(self) -> int:
        """The engine's HTTP process as of now."""
        pid: int = httpx.get(f"{self.url}/health").json()["engines"]["e0"]["pid"]
        return pid

    def engine_log(self) -> str:
        """All that the engine printed."""
        return Path(self.ready["engines"]["e0"]["log"]).read_text(errors="replace")


@contextmanager
def serve(*arguments: str) -> Iterator[Server]:
    """Run `autellix serve` on a free port until the context ends; fail the test if it leaves processes behind."""
    process = start_serve(*arguments)
    try:
        yield wait_ready(process)
    finally:
        processes = session_tree(process.pid)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert survivors(processes) == set()


def start_serve(*arguments: str) -> subprocess.Popen[str]:
    """Start `autellix serve --json` with its output on pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "autellix_server", "serve", "--json", "--device", "cpu", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def wait_ready(process: subprocess.Popen[str]) -> Server:
    """Wait for the ready event."""
    assert process.stdout is not None
    ready = json.loads(_line_within(process.stdout, START_LIMIT_S))
    assert ready["event"] == "ready"
    return Server(process, ready["url"], ready)


def _line_within(stream: IO[str], limit_s: float) -> str:
    def give_up(*_: object) -> None:
        raise TimeoutError(f"the server was not ready within {limit_s} s")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        line = stream.readline()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert line, "the server ended before it was ready"
    return line


def session_tree(root: int) -> set[tuple[int, str]]:
    """Return PID and start time of `root` and every process below it."""
    found, waiting = set[tuple[int, str]](), [root]
    parents = {pid: fields for pid in _pids() if (fields := _stat(pid)) is not None}
    while waiting:
        pid = waiting.pop()
        if pid in parents:
            found.add((pid, parents[pid][19]))
            waiting += [child for child, fields in parents.items() if int(fields[1]) == pid]
    return found


def survivors(processes: set[tuple[int, str]]) -> set[int]:
    """Return which of `processes` still run; a reused PID has another start time."""
    return {pid for pid, started in processes if (fields := _stat(pid)) and fields[19] == started and fields[0] != "Z"}


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> Sequence[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
