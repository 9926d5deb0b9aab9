"""`autellix serve` as a user meets it: what it prints, how it ends, and what it leaves behind."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from script_launch import ScriptLaunch, survivors, until

from autellix_server.cli import main
from autellix_server.commands.serve import allow_connections, warn_if_open
from autellix_server.engine.guardian import live_processes
from autellix_server.gateway.settings import ServeSettings

# The command with another engine in SGLang's place: everything else is what a user runs.
DRIVER = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from script_launch import ScriptLaunch
from autellix_server.cli import main
from autellix_server.commands import serve
serve.prepare_launch = lambda settings, arguments: ScriptLaunch(Path(sys.argv[2]), mode=sys.argv[3])
sys.exit(main(["serve", *sys.argv[4:]]))
"""


VARIABLES_ONLY = {"allowed_hosts", "allowed_origins", "max_body_bytes"}


@contextmanager
def serving(folder: Path, mode: str, *arguments: str, stdin: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run `autellix serve` with a script for an engine; `stdin` is as in `subprocess`."""
    helpers = str(Path(__file__).parents[1] / "engine")
    command = [sys.executable, "-c", DRIVER, helpers, str(folder), mode, *arguments]
    environment = {"PATH": "/usr/bin:/bin", "AUTELLIX_HOME": str(folder), "PYTHONWARNINGS": "error"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=stdin, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_when_it_is_ready_and_stops_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """One JSON line, exit status 0, no process left."""
    launch = ScriptLaunch(tmp_path)
    with serving(tmp_path, "ok", "--json", "--port", "0") as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "ready"
        assert ready["engines"]["e0"]["pid"] in launch.family()
        assert Path(ready["engines"]["e0"]["log"]).read_text().startswith("Load weight begin")
        with urllib.request.urlopen(f"{ready['url']}/ready", timeout=10) as reply:
            assert json.load(reply) == {"ready": True}
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert "engine e0 stopped" in err
    assert survivors(launch.family()) == set()


def test_programs_get_nothing_but_json(tmp_path: Path) -> None:
    """Where the log is JSON, progress is part of it, whatever the level."""
    with serving(tmp_path, "ok", "--json", "--log-format", "json", "--log-level", "error", "--port", "0") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        _, err = process.communicate(timeout=30)
    messages = [json.loads(line)["message"] for line in err.splitlines()]
    assert "engine e0 ready" in messages
    assert messages[-1] == "engine e0 stopped"


def test_people_get_a_block_that_shows_what_to_do(tmp_path: Path) -> None:
    """URL, model, policy, and code to paste; progress and log are on standard error."""
    with serving(tmp_path, "ok", "--port", "0", "--policy", "plas") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(10)]
        process.terminate()
        _, err = process.communicate(timeout=30)
    block = "".join(lines)
    assert "http://127.0.0.1:" in block
    assert "model    tiny" in block
    assert "policy   plas" in block
    assert "import autellix_sdk" in block
    assert str(tmp_path / "logs") in err


def test_it_stops_when_its_standard_input_ends(tmp_path: Path) -> None:
    """For programs that start the server on a pipe; what is written to it means nothing."""
    launch = ScriptLaunch(tmp_path)
    with serving(tmp_path, "ok", "--json", "--port", "0", "--until-stdin-ends", stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        _, err = process.communicate("not the end\n", timeout=30)
    assert process.returncode == 0
    assert err.endswith("engine e0 stopped\n")
    assert survivors(launch.family()) == set()


def test_standard_input_that_goes_on_does_not_disturb_the_stop(tmp_path: Path) -> None:
    """The thread that waits for its end is still reading when the interpreter ends."""
    with serving(tmp_path, "ok", "--json", "--port", "0", "--until-stdin-ends", stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(timeout=30) == 0
        assert process.stderr.read().endswith("engine e0 stopped\n")


def test_without_standard_input_there_is_no_end_to_wait_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, before anything starts."""
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["serve", "--until-stdin-ends"]) == 1
    assert "--until-stdin-ends: standard input is closed" in capsys.readouterr().err


async def test_a_kill_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL to `autellix serve` ends its engine too."""
    launch = ScriptLaunch(tmp_path)
    with serving(tmp_path, "ok", "--json", "--port", "0") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    await until(lambda: survivors(launch.family()) == set())


async def test_a_kill_leaves_no_worker(tmp_path: Path) -> None:
    """They serve nobody without the process that decides."""
    with serving(tmp_path, "ok", "--json", "--port", "0", "--workers", "2") as process:
        assert process.stdout is not None
        process.stdout.readline()
        await until(lambda: len(workers_of(process.pid)) == 2)
        workers = workers_of(process.pid)
        process.kill()
    await until(lambda: survivors(workers) == set())


def workers_of(pid: int) -> set[int]:
    """Return the processes that are workers of a gateway."""
    return {
        entry.pid
        for entry in live_processes()
        if entry.parent == pid and b"workers.process" in Path(f"/proc/{entry.pid}/cmdline").read_bytes()
    }


def test_it_may_have_thousands_of_connections() -> None:
    """Whatever the shell's soft limit is."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, most))
    try:
        allow_connections()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(most, 1 << 20), most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def test_every_setting_is_a_flag_or_a_variable(capsys: pytest.CaptureFixture[str]) -> None:
    """And the help names it; most are both."""
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = capsys.readouterr().out
    for name in ServeSettings.model_fields:
        assert f"AUTELLIX_{name.upper()}" in shown
        assert name in VARIABLES_ONLY or f"--{name.replace('_', '-')} " in shown, name


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({"host": "0.0.0.0"}, "0.0.0.0 can be reached from other machines, and callers need no key"),
        ({"admin_host": "0.0.0.0", "admin_port": 0}, "operators' endpoints on 0.0.0.0 can be reached from other"),
        ({"admin_host": "0.0.0.0"}, ""),
        ({}, ""),
    ],
)
def test_who_lets_everybody_in_is_warned(
    settings: dict[str, Any], warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a caller, or as an operator."""
    warn_if_open(ServeSettings(**settings))
    err = capsys.readouterr().err
    assert warning in err
    assert bool(err) is bool(warning)


def test_an_engine_that_refuses_is_one_sentence(tmp_path: Path) -> None:
    """Exit status 4, the plugin's own words, no traceback."""
    with serving(tmp_path, "refuse", "--port", "0") as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 4
    assert err.splitlines()[-1] == "autellix: the engine did not start: refused flag --enable-mixed-chunk: no"
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--model", "/no/such/folder"], 1, "there is no model folder /no/such/folder"),
        (["--policy", "lottery"], 1, "--policy (or AUTELLIX_POLICY) is 'lottery'"),
        (["--", "--dp", "2"], 2, "refused flag --dp"),
        (["--", "--api-key", "x"], 2, "refused flag --api-key"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence each."""
    assert main(["serve", *arguments]) == status
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_port_in_use_is_found_before_the_engine_starts(capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 1
    assert capsys.readouterr().err.startswith(f"autellix: port {port} on 127.0.0.1 is in use; ")
