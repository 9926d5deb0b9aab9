"""Stands between the gateway and the engine, and leaves no process behind whichever of them dies, however it dies.

Run as ``python -m autellix_server.engine.guardian GRACE_SECONDS SECRET_FILE COMMAND...`` in a session of its own, and
removes the file at the end. Standard input is a pipe that nobody writes to: its end means that the gateway is gone.
The guardian adopts whatever the engine orphans (`PR_SET_CHILD_SUBREAPER`), because SGLang's worker processes tie their
life to their parent's only after some ten seconds of imports. Standard library only and light: it runs in the
engine's environment.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

STOPPED = 0
"""Exit status when the guardian was told to stop; otherwise it exits with the engine's (128 + signal if killed)."""

_CANNOT_RUN = 127
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_KILL_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class ProcessEntry:
    """One live process, as `/proc` shows it; zombies are not listed."""

    pid: int
    parent: int
    session: int


def live_processes() -> Iterator[ProcessEntry]:
    """Yield every live process of the machine that `/proc` shows."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                # The command name, in parentheses, may itself hold spaces and parentheses.
                state, parent, _group, session, *_ = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in {"Z", "X"}:
            yield ProcessEntry(int(name), int(parent), int(session))


def descendants(root: int) -> set[int]:
    """Return the live processes below `root`, children of children included."""
    children: dict[int, list[int]] = {}
    for entry in live_processes():
        children.setdefault(entry.parent, []).append(entry.pid)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            if pid not in found:
                found.add(pid)
                waiting.append(pid)
    return found


def session_members(session: int) -> set[int]:
    """Return the live processes of a session."""
    return {entry.pid for entry in live_processes() if entry.session == session}


def kill_all(targets: Callable[[], set[int]], limit_s: float = _KILL_LIMIT_S) -> bool:
    """SIGKILL what `targets` returns until it returns nothing: new processes may be born meanwhile.

    Returns:
        Whether nothing is left; `False` after `limit_s` seconds, when a process cannot die.
    """
    deadline = time.monotonic() + limit_s
    while remaining := targets():
        if time.monotonic() > deadline:
            return False
        for pid in remaining:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap()
        time.sleep(0.01)
    return True


def guard(command: Sequence[str], grace_s: float) -> int:
    """Run `command` until it exits, standard input ends, or a stop signal comes; then kill every descendant.

    Args:
        command: program and arguments of the engine.
        grace_s: seconds between SIGTERM and SIGKILL when the engine is stopped.

    Returns:
        Exit status for the guardian.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with selectors.DefaultSelector() as selector:
        wake_up = _signals_wake(selector)
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        # process_group: a group of its own, so that nothing the engine sends to its group reaches the guardian.
        engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_die_with(os.getpid()))
        stopped = _wait(selector, wake_up, engine)
        if stopped:
            engine.terminate()
            _wait_for_exit(selector, wake_up, engine, grace_s)
    engine.poll()
    kill_all(lambda: descendants(os.getpid()))
    status = engine.wait()
    if stopped:
        return STOPPED
    return status if status >= 0 else 128 - status


def _wait(selector: selectors.BaseSelector, wake_up: int, engine: subprocess.Popen[bytes]) -> bool:
    """Wait for the engine's end or for a reason to stop it; return whether it is to be stopped."""
    while True:
        for key, _ in selector.select():
            # Signals arrive as bytes on the wake-up pipe; standard input only ever says that it ended.
            received = os.read(key.fd, 512)
            if key.fd != wake_up and not received:
                selector.unregister(key.fd)
                return True
            if key.fd == wake_up and any(number in _STOP_SIGNALS for number in received):
                return True
        if engine.poll() is not None:
            return False


def _wait_for_exit(
    selector: selectors.BaseSelector, wake_up: int, engine: subprocess.Popen[bytes], grace_s: float
) -> None:
    deadline = time.monotonic() + grace_s
    while engine.poll() is None and (left_s := deadline - time.monotonic()) > 0:
        for key, _ in selector.select(left_s):
            if not os.read(key.fd, 512) and key.fd != wake_up:
                selector.unregister(key.fd)


def _signals_wake(selector: selectors.BaseSelector) -> int:
    """Make SIGCHLD and the stop signals readable on a pipe that `selector` watches; return its reading end."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, *_STOP_SIGNALS):
        signal.signal(number, lambda *_: None)
    selector.register(reading, selectors.EVENT_READ)
    return reading


def _die_with(parent: int) -> Callable[[], None]:
    """Return what the engine runs before it becomes itself: die when the guardian dies, even by SIGKILL."""

    def tie() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _reap() -> None:
    """Collect adopted children that have died. The engine's own status is read before the first call."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main(argv: Sequence[str]) -> int:
    """Run the guardian; `argv` is the grace period in seconds, the file to remove, and the engine's command."""
    grace_s, secret_file, *command = argv
    try:
        return guard(command, float(grace_s))
    except OSError as error:
        print(f"autellix: cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        return _CANNOT_RUN
    finally:
        with suppress(FileNotFoundError):
            os.unlink(secret_file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
