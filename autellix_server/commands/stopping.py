"""How a command that serves is asked to stop: by a signal, or by the end of its standard input."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from contextlib import suppress

from autellix_sdk.errors import UsageError


def add_stdin_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--until-stdin-ends`."""
    parser.add_argument(
        "--until-stdin-ends",
        action="store_true",
        help="stop when standard input ends: for programs that start the server on a pipe and may be killed",
    )


def stop_when_stdin_ends() -> None:
    """Read standard input to its end in a thread of its own, and send SIGTERM to this process then.

    Raises:
        UsageError: there is no standard input.
    """
    if sys.stdin is None:
        raise UsageError("--until-stdin-ends: standard input is closed; start the server on a pipe")
    threading.Thread(target=_read_to_the_end, args=(sys.stdin.fileno(),), name="autellix-stdin", daemon=True).start()


def stop_requests() -> asyncio.Event:
    """Return an event of the running loop that is set by SIGINT, SIGTERM, and SIGHUP unless it is ignored."""
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP is under nohup
            asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    return asked_to_stop


def _read_to_the_end(descriptor: int) -> None:
    """Read, then send the signal. Not through `sys.stdin`, whose lock the interpreter needs when it ends."""
    with suppress(OSError):  # a terminal that is gone
        while os.read(descriptor, 1 << 16):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
