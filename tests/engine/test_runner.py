"""Child processes of an installation."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

import pytest

from autellix_server.engine.runner import ProcessRunner, child_environment


@pytest.fixture
def runner(tmp_path: Path) -> ProcessRunner:
    """Return a runner with a log below `tmp_path` and some descriptor in place of a lock."""
    return ProcessRunner(tmp_path / "logs" / "install.log", lock=sys.__stderr__.fileno())


def python(code: str) -> list[str]:
    """Return a command that runs `code`."""
    return [sys.executable, "-c", code]


def test_output_arrives_line_by_line_and_in_the_log(runner: ProcessRunner, tmp_path: Path) -> None:
    """Standard error included, in order, with the exit status of the command."""
    lines: list[str] = []
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    assert runner(python(code), on_line=lines.append) == 3
    log = (tmp_path / "logs" / "install.log").read_text()
    assert lines == ["one", "two"]
    assert log.startswith("$ ")
    assert log.endswith("\none\ntwo\n")


def test_extra_variables_reach_the_child_but_not_the_log(runner: ProcessRunner, tmp_path: Path) -> None:
    """Index addresses with passwords travel this way."""
    lines: list[str] = []
    runner(python("import os; print(len(os.environ['SECRET']))"), env={"SECRET": "hunter2"}, on_line=lines.append)
    assert lines == ["7"]
    assert "hunter2" not in (tmp_path / "logs" / "install.log").read_text()


def test_the_child_sees_only_its_own_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that point Python or pip somewhere else are left out."""
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "PIP_USER", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example")
    environment = child_environment()
    assert "/elsewhere" not in environment.values()
    assert environment["PIP_INDEX_URL"] == "https://index.example"


def test_an_interrupted_child_ends_with_all_it_started(runner: ProcessRunner) -> None:
    """Nothing is left installing behind the user's back."""
    family: list[int] = []

    def interrupt(line: str) -> None:
        family.extend(int(word) for word in line.split())
        raise KeyboardInterrupt

    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], stdin=subprocess.PIPE)\n"
        "print(os.getpid(), child.pid)\n"
        "child.wait()\n"
    )
    with pytest.raises(KeyboardInterrupt):
        runner(python(code), on_line=interrupt)
    assert len(family) == 2
    with pytest.raises(ProcessLookupError):
        os.kill(family[0], 0)
    assert gone(family[1])


def gone(pid: int) -> bool:
    """Wait until the process is no longer running and tell whether it came to that."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10.0)[0])
    finally:
        os.close(descriptor)


def test_a_child_that_ignores_the_request_is_killed(runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installer that hangs does not keep the user from leaving."""
    monkeypatch.setattr("autellix_server.engine.runner.GRACE_S", 0.05)
    seen: list[int] = []

    def interrupt(line: str) -> None:
        seen.append(int(line))
        raise KeyboardInterrupt

    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid())\n"
        "while True: signal.pause()\n"
    )
    with pytest.raises(KeyboardInterrupt):
        runner(python(code), on_line=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)
