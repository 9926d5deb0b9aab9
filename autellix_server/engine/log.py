"""The log file of an engine: one per start, a few old ones kept, readable by its owner only (SGLang logs its key)."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import BinaryIO

_KEPT = 5
_KEPT_IN_ALL = 40
_TAIL_LINES = 12
_REASON = "autellix: "
_STAGES = (
    ("Load weight begin", "loading weights"),
    ("Load weight end", "setting up the KV cache"),
    ("Capture cuda graph begin", "capturing CUDA graphs"),
    ("max_total_num_tokens", "warming up"),
)


def begin_log(path: Path) -> BinaryIO:
    """Put earlier logs aside as ``.1`` (the latest) to ``.4`` and open a new, empty one for an engine to write to.

    Logs of engines have their gateway's port in their name; of all ports together the newest 40 are kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for age in range(_KEPT - 1, 0, -1):
        older, younger = _aged(path, age), _aged(path, age - 1)
        if younger.exists():
            younger.replace(older)
    engine_name = path.name.partition("-")[0]
    for stale in sorted(path.parent.glob(f"{engine_name}-*.log*"), key=_modified, reverse=True)[_KEPT_IN_ALL - 1 :]:
        stale.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _aged(path: Path, age: int) -> Path:
    return path.with_name(f"{path.name}.{age}") if age else path


class LogReader:
    """Follows the log of one start.

    Args:
        path: the log file.

    Attributes:
        reason: what the plugin's guard said when it refused to start the engine, or `None`.
        stage: what the engine is doing while it starts, in a few words, or `None` before it says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reason: str | None = None
        self.stage: str | None = None
        self._position = 0
        self._partial = b""
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def read(self) -> None:
        """Take in what was written since the last call; nothing, if somebody has removed the file."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._position)
                *lines, self._partial = (self._partial + file.read()).split(b"\n")
                self._position = file.tell()
        except FileNotFoundError:
            return
        for line in lines:
            self._take(line.decode("utf-8", "replace").rstrip())

    def tail(self) -> list[str]:
        """Return the last few lines that were read and not empty."""
        partial = self._partial.decode("utf-8", "replace").strip()
        return [*self._tail, *([partial] if partial else [])]

    def _take(self, line: str) -> None:
        if line:
            self._tail.append(line)
        if line.startswith(_REASON) and self.reason is None:
            self.reason = line.removeprefix(_REASON)
        self.stage = next((stage for sign, stage in _STAGES if sign in line), self.stage)
