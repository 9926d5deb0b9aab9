"""The guardian on its own: exit status, stop by signal and by end of input."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

GUARDIAN = "autellix_server.engine.guardian"
SLEEP = "import time; print(1, flush=True); time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


def start(code: str, grace_s: float = 5.0) -> subprocess.Popen[bytes]:
    """Start a guardian over ``python -c code``."""
    command = [sys.executable, "-m", GUARDIAN, str(grace_s), "/nonexistent", sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(9)", 9), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_it_exits_as_the_engine_did(code: str, status: int) -> None:
    """A status as it is, a signal as 128 and its number."""
    with start(code) as guardian:
        assert guardian.wait(20) == status


@pytest.mark.parametrize("code", [SLEEP, DEAF])
def test_the_end_of_its_input_stops_the_engine(code: str) -> None:
    """SIGTERM first, SIGKILL to an engine that does not listen; the pipe's other end is closed by then."""
    with start(code, grace_s=0.2) as guardian:
        assert guardian.stdin is not None
        assert guardian.stdout is not None
        guardian.stdout.readline()
        guardian.stdin.close()
        assert guardian.stdout.read() == b""
        assert guardian.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_signal_stops_the_engine(number: signal.Signals) -> None:
    """Whoever signals the guardian means the engine."""
    with start(SLEEP) as guardian:
        assert guardian.stdout is not None
        guardian.stdout.readline()
        guardian.send_signal(number)
        assert guardian.stdout.read() == b""
        assert guardian.wait(20) == 0


def test_a_command_that_does_not_exist_is_an_error() -> None:
    """The guardian does not hang on nothing."""
    command = [sys.executable, "-m", GUARDIAN, "1", "/nonexistent", "/nonexistent/engine"]
    done = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, timeout=20, check=False)
    assert done.returncode == 127
    assert done.stderr == b"autellix: cannot run /nonexistent/engine: No such file or directory\n"
