"""Running installers and converters as child processes that never outlive an interrupted command."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

GRACE_S = 5.0
"""How long a child may take to end after SIGTERM before it is killed."""


class Runner(Protocol):
    """Runs one command to its end."""

    def __call__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] = ...,
    ) -> int:
        """Run `command` and return its exit status.

        Args:
            command: program and arguments; no shell.
            env: variables set in addition to those of `child_environment`.
            on_line: called with each line of output as it comes, standard error included.
        """


RunnerFactory = Callable[[Path, int], Runner]
"""Makes a runner from a log file and the descriptor of the home's lock."""


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a Python child that must see its own packages and nobody else's."""
    foreign = {
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_USER",
        "PYTHONDONTWRITEBYTECODE",
    }
    env = {name: value for name, value in os.environ.items() if name not in foreign}
    env |= {
        "PYTHONUNBUFFERED": "1",  # or a piped installer would report minutes late
        "PYTHONSAFEPATH": "1",  # the folder the user happens to be in must not shadow the environment's packages
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    return env | dict(extra or {})


def _ignore(line: str) -> None:
    """Drop a line of output that nobody asked for."""


class ProcessRunner:
    """Runs commands for real, with everything they print kept in a log file.

    The child gets its own session: Ctrl-C in a terminal reaches only this process, which then ends the
    child and all it started.

    Args:
        log: file that commands and their output are appended to.
        lock: descriptor that the child inherits, see `Home.lock`.
    """

    def __init__(self, log: Path, lock: int) -> None:
        self._log = log
        self._lock = lock

    def __call__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] = _ignore,
    ) -> int:
        """Run `command`; see `Runner`."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a", encoding="utf-8") as log:
            print(f"$ {shlex.join(command)}", file=log, flush=True)
            child = subprocess.Popen(
                command,
                env=child_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
                pass_fds=(self._lock,),
            )
            with child, _ended(child):
                for line in child.stdout or ():
                    print(line, end="", file=log, flush=True)
                    on_line(line.rstrip())
                return child.wait()


@contextlib.contextmanager
def _ended(child: subprocess.Popen[str]) -> Iterator[None]:
    """End the child and its descendants if the block is left by an exception, Ctrl-C included."""
    try:
        yield
    except BaseException:
        _signal_group(child, signal.SIGTERM)
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            _signal_group(child, signal.SIGKILL)
        raise


def _signal_group(child: subprocess.Popen[str], number: signal.Signals) -> None:
    """Signal the whole session of `child`; one that has ended is left alone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
