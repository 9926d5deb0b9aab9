"""`autellix calibrate` over HTTP: what it sends, prints and writes, and how it refuses."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import CompletionsServer, serving

from autellix_server import cli
from autellix_server.commands.engine_model import read_model
from autellix_server.engine.limits import EngineLimits


@pytest.fixture
def server() -> Iterator[CompletionsServer]:
    """A server that answers."""
    with serving(CompletionsServer()) as running:
        yield running


def calibrate(server: CompletionsServer, *arguments: str) -> int:
    """Run the command."""
    return cli.main(["calibrate", "--url", server.url, "--quick", *arguments])


def test_a_model_is_measured_written_and_simulated(
    server: CompletionsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An SGLang server says its limits itself; the file is what `autellix simulate` takes."""
    monkeypatch.setenv("AUTELLIX_API_KEY", "k")
    file = tmp_path / "here.json"
    assert calibrate(server, "--output", str(file), "--host-tokens", "9", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(file.read_text())
    model = read_model(file)
    assert (model.slots, model.kv_tokens, model.chunk_tokens, model.host_tokens) == (4, 4096, 32, 9)
    assert model.source.startswith("measured on tiny; median error")
    assert all(body["ignore_eos"] and body["stream"] and body["model"] == "tiny" for body in server.seen)
    assert set(server.keys) == {"Bearer k"}
    prompts = [tuple(body["prompt"]) for body in server.seen]
    assert len(set(prompts)) == len(prompts)
    trace = tmp_path / "trace.jsonl"
    call = {"id": "0", "parents": [], "thread": 0, "prompt_tokens": 50, "shared_prefix_tokens": 0, "output_tokens": 3}
    trace.write_text(json.dumps({"program_id": "a", "kind": "k", "source": "s", "calls": [call]}) + "\n")
    assert cli.main(["simulate", "--trace", str(trace), "--engine-model", str(file), "--rates", "1", "--json"]) == 0
    simulated = json.loads(capsys.readouterr().out)
    assert (simulated["engine_model"], simulated["preset"]) == (str(file), None)
    assert simulated["model"]["host_tokens"] == 9


def test_people_get_tables(server: CompletionsServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Coefficients with intervals, how good they are, and the proof; limits that are given go before the server's."""
    server.url += "/v1"
    assert calibrate(server, "--slots", "2", "--model", "other") == 0
    shown = capsys.readouterr()
    for word in ("measured on other", "kv_token_s", "95 % interval", "median error", "model / server", "makespan, s"):
        assert word in shown.out
    assert "autellix: measuring:" in shown.err
    assert {body["model"] for body in server.seen} == {"other"}


def test_a_gateway_says_the_limits_of_its_engine(
    server: CompletionsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It keeps ``/server_info`` from its clients, and says them under ``/health``."""
    server.info = None
    server.health = {"status": "ok", "engines": {"e0": {"limits": EngineLimits(4, 4096, 32).to_json()}}}
    assert calibrate(server, "--json", "--output", str(tmp_path / "here.json")) == 0
    model = read_model(tmp_path / "here.json")
    assert (model.slots, model.kv_tokens, model.chunk_tokens) == (4, 4096, 32)


@pytest.mark.parametrize("info", [None, {"max_running_requests": None, "chunked_prefill_size": -1}])
@pytest.mark.parametrize("health", [None, {"status": "ok"}, {"engines": {"e0": {"state": "starting", "limits": None}}}])
def test_limits_that_nobody_says_must_be_given(
    info: dict[str, Any] | None,
    health: dict[str, Any] | None,
    server: CompletionsServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The sentence names the flags."""
    server.info, server.health = info, health
    assert calibrate(server, "--kv-tokens", "4096") == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.endswith("does not say all its limits: give --slots, --chunk-tokens")
    assert server.seen == []


@pytest.mark.parametrize(
    ("lines", "missing", "said"),
    [
        ([], 1, "8 tokens were asked for and 7 came: the server must take max_tokens and ignore_eos"),
        (
            [b'data: {"error": {"message": "out of memory"}}\n\n'],
            0,
            "the server failed a call: {'message': 'out of memory'}",
        ),
        ([b"data: {]\n\n"], 0, "the server's stream cannot be read: data: {]"),
        ([b"data: [1]\n\n"], 0, "the server's stream cannot be read: data: [1]"),
    ],
)
def test_a_server_that_misbehaves_ends_it_in_one_sentence(
    lines: list[bytes], missing: int, said: str, server: CompletionsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 4."""
    server.lines, server.tokens_missing = lines, missing
    assert calibrate(server) == 4
    err = capsys.readouterr().err
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


def test_no_server_and_no_such_model_are_said(server: CompletionsServer, capsys: pytest.CaptureFixture[str]) -> None:
    """With what to do."""
    assert calibrate(server, "--model", "huge") == 4
    assert "has no model 'huge'; it has: tiny, other" in capsys.readouterr().err.splitlines()[-1]
    assert cli.main(["calibrate", "--url", server.url + "/elsewhere"]) == 4
    assert "is answered with 404" in capsys.readouterr().err.splitlines()[-1]
    assert cli.main(["calibrate", "--url", "localhost:1"]) == 1
    assert "--url is 'localhost:1'; write http://HOST:PORT" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as unused:
        server.url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    assert calibrate(server) == 4
    assert "start one with `autellix serve`, or name it with --url" in capsys.readouterr().err.splitlines()[-1]


def test_a_file_that_cannot_be_written_is_found_out_first(
    server: CompletionsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not after minutes."""
    assert calibrate(server, "--output", "no/such/folder/here.json") == 1
    assert "--output: no/such/folder/here.json cannot be written: No such file" in capsys.readouterr().err
    assert server.seen == []


@pytest.mark.parametrize(
    ("flag", "value", "remedy"),
    [
        ("--host-tokens", "-5", "'-5' is not a whole number of 0 or more"),
        ("--link-bytes-per-s", "0", "'0' is not a number above 0"),
    ],
)
def test_a_wrong_flag_is_named_before_anything_is_measured(
    flag: str, value: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """These go into the model as they are, which would refuse them when all is measured."""
    with pytest.raises(SystemExit):
        cli.main(["calibrate", f"{flag}={value}"])
    assert f"argument {flag}: {remedy}" in capsys.readouterr().err
