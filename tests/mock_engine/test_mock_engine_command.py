"""`autellix mock-engine` as a user meets it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from mock_world import MODEL

from autellix_server.cli import main


@contextmanager
def serving(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command on a free port."""
    command = [sys.executable, "-m", "autellix_server", "mock-engine", "--port", "0", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONWARNINGS": "error"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def ready(process: subprocess.Popen[str]) -> str:
    """Return the URL of its ready event."""
    assert process.stdout is not None
    event = json.loads(process.stdout.readline())
    assert event["event"] == "ready"
    return str(event["url"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_when_it_is_ready_and_stops_cleanly_with_calls_in_flight(
    number: signal.Signals, tmp_path: Path
) -> None:
    """One JSON line, exit status 0, the engine model of a file."""
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"model": asdict(MODEL), "fit": {}}))
    with serving("--json", "--engine-model", str(file), "--policy", "mlfq") as process:
        url = ready(process)
        with urllib.request.urlopen(f"{url}/server_info", timeout=10) as reply:
            info = json.load(reply)["mock_engine"]
        assert (info["policy"], info["engine_model"]["step_s"]) == ("mlfq", 1.0)
        body = json.dumps({"prompt": "go", "max_tokens": 1000, "ignore_eos": True, "stream": True}).encode()
        headers = {"content-type": "application/json"}
        stream = urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", body, headers), timeout=10)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        stream.close()
    assert process.returncode == 0
    assert err == "autellix: stopped\n"


def test_it_stops_when_its_standard_input_ends() -> None:
    """For programs that start it on a pipe; people get a block that shows what to do."""
    with serving("--until-stdin-ends", "--speed", "10") as process:
        assert process.stdout is not None
        block = "".join(process.stdout.readline() for _ in range(6))
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert "http://127.0.0.1:" in block
    assert "policy   auto, 10 virtual seconds a second" in block


def test_standard_input_that_goes_on_does_not_disturb_the_stop() -> None:
    """The thread that waits for its end is still reading when the interpreter ends."""
    with serving("--json", "--until-stdin-ends") as process:
        assert process.stderr is not None
        ready(process)
        process.terminate()
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == "autellix: stopped\n"


def test_die_is_the_end_of_the_process() -> None:
    """At once, with a status of its own."""
    with serving("--json", "--fault", "die@1") as process:
        request = urllib.request.Request(f"{ready(process)}/v1/completions", b'{"prompt": "go"}')
        with pytest.raises(OSError, match=r"Remote end closed|reset by peer"):
            urllib.request.urlopen(request, timeout=10)
        assert process.wait(timeout=10) == 70


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "srpt"], "--policy is 'srpt'; choose one of: atlas"),
        (["--preset", "z1"], "--preset: unknown preset 'z1'; choose one of: a100-8b"),
        (["--engine-model", "/no/such.json"], "--engine-model: /no/such.json: cannot be read"),
        (["--fault", "burn@1"], "--fault: unknown kind of fault 'burn'"),
        (["--port", "70000"], "--port is 70000"),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the flag and what would be right."""
    assert main(["mock-engine", *arguments]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--speed", "0"], ["--speed", "fast"], ["--first-bound-s", "-1"]])
def test_numbers_out_of_range_are_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2; the flag is named."""
    with pytest.raises(SystemExit) as caught:
        main(["mock-engine", *arguments])
    assert caught.value.code == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err


def test_a_secret_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The variable is named, its value is not shown."""
    monkeypatch.setenv("AUTELLIX_SECRET", "swordfish")
    assert main(["mock-engine", "--port", "0"]) == 1
    assert capsys.readouterr().err == "autellix: AUTELLIX_SECRET must be at least 32 hexadecimal digits\n"


def test_a_port_in_use_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """It is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["mock-engine", "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1 port {port}: the port is in use" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind of fault and examples."""
    with pytest.raises(SystemExit):
        main(["mock-engine", "--help"])
    text = capsys.readouterr().out
    for word in ("refuse:STATUS:SECONDS", "cut:TOKENS", "unhealthy", "/mock/faults", "--speed 10"):
        assert word in text
