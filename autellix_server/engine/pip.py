"""Talking to pip: what its output means for a progress display, and its failures in one sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from autellix_server.engine.progress import Progress
from autellix_server.engine.runner import Runner
from autellix_server.errors import EnvironmentFailure

LARGE_DOWNLOAD_MB = 20.0
"""Downloads from this size on are announced on a line of their own."""

NOT_ON_INDEX = "the package index has no"

_DOWNLOAD = re.compile(
    r"\s*Downloading (?:\S*/)?(?P<file>[^/\s]+\.(?:whl|tar\.gz|zip)) \((?P<size>[\d.]+) (?P<unit>[kMG]?B)\)"
)
_PACKAGE = re.compile(r"(?:Collecting|Processing|Requirement already satisfied:) (?:\S*/)?(?P<name>[^/\s]+)")
_MB = {"B": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}

_CAUSES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"No space left on device|Errno 28"), "the disk is full"),
    (
        re.compile(
            r"name resolution|NewConnectionError|ConnectTimeout|ReadTimeout|Read timed out|Connection refused"
            r"|Network is unreachable|Max retries exceeded|ProxyError|Connection broken|SSLError"
        ),
        "the package index cannot be reached",
    ),
    (re.compile(r"No matching distribution found for (\S+)"), rf"{NOT_ON_INDEX} \1 for this Python and machine"),
    (re.compile(r"ERROR: (.*?)\.?$"), r"\1"),
)


class NotOnIndex(EnvironmentFailure):
    """The package index has no suitable file for a requirement."""


class Pip:
    """The pip of one environment.

    Args:
        python: the environment's interpreter.
        runner: runs pip.
        log: named in failures, for those who want the whole output.
    """

    def __init__(self, python: Path, runner: Runner, log: Path) -> None:
        self._python = python
        self._runner = runner
        self._log = log

    def run(self, *arguments: str, progress: Progress, env: dict[str, str] | None = None) -> None:
        """Run `pip ARGUMENTS`.

        Args:
            arguments: the pip command with its options.
            progress: gets one step per package and a sentence per large download.
            env: extra variables; the place for index addresses, which may carry passwords that must reach
                neither the process list nor the log.

        Raises:
            NotOnIndex: a requirement cannot be had for this Python and machine.
            EnvironmentFailure: pip failed for another reason; the message gives it, in one sentence.
        """
        lines: list[str] = []

        def on_line(line: str) -> None:
            lines.append(line)
            show(line, progress)

        command = [str(self._python), "-m", "pip", *arguments]
        if self._runner(command, env={"PIP_PROGRESS_BAR": "off"} | (env or {}), on_line=on_line) != 0:
            cause = explain(lines)
            failure = NotOnIndex if cause.startswith(NOT_ON_INDEX) else EnvironmentFailure
            raise failure(f"pip {arguments[0]} failed: {cause} (log: {self._log})")


def show(line: str, progress: Progress) -> None:
    """Report what one line of pip's output means; warnings and chatter mean nothing."""
    if match := _DOWNLOAD.match(line):
        size_mb = float(match["size"]) * _MB[match["unit"]]
        if size_mb >= LARGE_DOWNLOAD_MB:
            progress.say(f"  downloading {match['file']} ({size_mb:.0f} MB)")
    elif match := _PACKAGE.match(line):
        progress.step(match["name"])
    elif line.startswith("Installing collected packages"):
        count = line.count(",") + 1
        progress.step(f"unpacking {count} package{'s' * (count > 1)}")


def explain(lines: Sequence[str]) -> str:
    """Return the cause of a failed pip run, without a full stop; the first cause known in `_CAUSES` order."""
    for pattern, cause in _CAUSES:
        for line in lines:
            if match := pattern.search(line):
                return match.expand(cause)
    return "it ended without saying why"
