"""What goes wrong on purpose: dead engine, dead gateway, wrong settings. And the plugin when it is off."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from autellix_sdk.wire import BILL_HEADER
from tests.integration.server import START_LIMIT_S, Server, session_tree, start_serve, survivors, wait_ready

pytestmark = pytest.mark.engine

ASK: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def stock(engine_python: Path) -> Iterator[Server]:
    """A server with the policy off; the last test of this module kills it."""
    process = start_serve("--policy", "off")
    yield wait_ready(process)
    if process.poll() is None:
        process.terminate()
    process.communicate(timeout=60)


def test_policy_off_leaves_responses_as_the_engine_made_them(stock: Server) -> None:
    """No header, no comment, for a client that sends ours."""
    headers = {"x-autellix-program": "p", "x-autellix-call": "v1;s=a;t=0;c=0.0"}
    url = f"{stock.base_url}/chat/completions"
    plain = httpx.post(url, json=ASK, headers=headers, timeout=60)
    streamed = httpx.post(url, json=ASK | {"stream": True}, headers=headers, timeout=60)
    assert plain.status_code == streamed.status_code == 200
    assert BILL_HEADER not in plain.headers
    assert BILL_HEADER not in streamed.headers
    assert "autellix" not in plain.text + streamed.text
    assert httpx.get(f"{stock.url}/autellix/v1/programs/p").json()["calls_completed"] == 2


@pytest.mark.parametrize(("policy", "hooks"), [("off", 0), ("plas", 5)])
def test_hooks_are_registered_only_under_a_policy(engine_python: Path, policy: str, hooks: int) -> None:
    """In the engine's own environment, by the engine's own loader: with the policy off its registry stays empty."""
    count = (
        "from sglang.srt.platforms import current_platform; repr(current_platform)\n"
        "from sglang.srt.plugins import load_plugins; load_plugins()\n"
        "from sglang.srt.plugins.hook_registry import HookRegistry as registry\n"
        "assert set(registry._hooks) == registry._patched, 'a hook was not applied'\n"
        "print('hooks', len(registry._patched))"
    )
    done = run_engine_python(engine_python, ["-c", count], AUTELLIX_POLICY=policy)
    assert done.stdout.splitlines()[-1:] == [f"hooks {hooks}"], done.stderr[-2000:]


def test_tag_that_a_client_forged_is_replaced(engine_python: Path) -> None:
    """In SGLang's own envelope, single or one per request of a batch; other actions stay."""
    check = (
        "from autellix_server.sglang_plugin.envelope import attach, read\n"
        "from autellix_server.sglang_plugin.records import CallTag\n"
        "forged = {'action_id': 'x', 'action_type': 'autellix.call', 'action_version': '1', 'payload':\n"
        "    {'program': 'evil', 'call': '0.0', 'base_service_us': 0}}\n"
        "other = {'action_id': 'y', 'action_type': 'other', 'action_version': '1', 'payload': {}}\n"
        "hints = {'protocol_version': '1', 'message_id': 'm', 'actions': [forged, other]}\n"
        "tag = CallTag('p', '0.1', 7)\n"
        "for envelope in (attach(hints, tag), *attach([hints, hints], tag), attach(None, tag)):\n"
        "    assert read(envelope) == tag, envelope\n"
        "assert [action.action_type for action in attach(hints, tag).actions] == ['other', 'autellix.call']\n"
        "assert read(None) is None\n"
        "print('replaced')"
    )
    done = run_engine_python(engine_python, ["-c", check])
    assert done.stdout.splitlines()[-1:] == ["replaced"], done.stderr[-2000:]


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        ([], {"AUTELLIX_POLICY": "fastest"}, "autellix: AUTELLIX_POLICY is 'fastest'; choose one of: atlas, "),
        (["--disable-radix-cache"], {}, "autellix: refused flag --disable-radix-cache: "),
        (["--dp-size", "2"], {}, "autellix: refused flag --dp-size: "),
        (
            [],
            {"AUTELLIX_BOUNDS_S": "2,1"},
            "autellix: AUTELLIX_BOUNDS_S is '2,1': bounds_s must be above 0, increasing",
        ),
    ],
)
def test_engine_itself_refuses_what_the_plugin_cannot_work_with(
    engine_python: Path, arguments: list[str], environment: dict[str, str], sentence: str
) -> None:
    """Also without the gateway: one sentence, no traceback, before any weight is loaded."""
    command = ["-m", "sglang.launch_server", "--model-path", "/no/such/folder", "--device", "cpu", *arguments]
    done = run_engine_python(engine_python, command, **{"AUTELLIX_POLICY": "plas", **environment})
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def run_engine_python(python: Path, arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the engine environment's interpreter as a CPU engine would be run."""
    environment = os.environ | {"AUTELLIX_CPU": "1", "PYTHONSAFEPATH": "1"} | variables
    return subprocess.run(
        [str(python), *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--model", "/no/such/folder"], 1, "there is no model folder /no/such/folder"),
        (["--policy", "fastest"], 1, "--policy (or AUTELLIX_POLICY) is 'fastest'"),
        (["--first-bound-s", "0"], 1, "--first-bound-s (or AUTELLIX_FIRST_BOUND_S) is '0'"),
        (["--bounds-s", "2,1"], 1, "--bounds-s (or AUTELLIX_BOUNDS_S) is '2,1': bounds_s must be above 0, increasing"),
        (["--beta", "-1"], 1, "--beta (or AUTELLIX_BETA) is -1.0"),
        (["--steps-between-plans", "0"], 1, "--steps-between-plans (or AUTELLIX_STEPS_BETWEEN_PLANS) is 0"),
        (["--", "--enable-mixed-chunk"], 2, "refused flag --enable-mixed-chunk: "),
        (["--", "--no-such-flag"], 4, "--no-such-flag"),
    ],
)
def test_wrong_setting_ends_serve_with_one_sentence(
    engine_python: Path, arguments: list[str], status: int, sentence: str
) -> None:
    """The message names the setting and the value; no traceback."""
    done = run_serve("--port", "0", *arguments)
    assert done.returncode == status
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_port_in_use_is_known_before_the_engine_starts(engine_python: Path) -> None:
    """The message names the port and the remedy."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_serve("--port", str(port))
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"autellix: port {port} on 127.0.0.1 is in use; stop what uses it or choose another port with --port"
    )


def run_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `autellix serve` that is expected to end by itself."""
    command = [sys.executable, "-m", "autellix_server", "serve", "--device", "cpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_stream_ends_with_an_error_event_when_the_engine_dies_and_the_engine_comes_back(stock: Server) -> None:
    """No silent half answer; while there is no engine the client is told to retry; then all is well again."""
    long = ASK | {"max_tokens": 2000, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{stock.base_url}/chat/completions", json=long, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        os.kill(stock.engine_pid, signal.SIGKILL)
        last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_died"

    refused = httpx.post(f"{stock.base_url}/chat/completions", json=ASK, timeout=60)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "engine_unavailable"
    assert int(refused.headers["retry-after"]) > 0
    wait_for_ready(stock, 503, limit_s=30)
    wait_for_ready(stock, 200, limit_s=START_LIMIT_S)
    assert httpx.post(f"{stock.base_url}/chat/completions", json=ASK, timeout=60).status_code == 200
    assert httpx.get(f"{stock.url}/health").json()["engines"]["e0"]["restarts"] == 1


def wait_for_ready(server: Server, status: int, limit_s: float) -> None:
    """Wait until the gateway answers `/ready` with `status`."""
    deadline = time.monotonic() + limit_s
    while httpx.get(f"{server.url}/ready").status_code != status:
        assert time.monotonic() < deadline, f"/ready did not become {status}"
        time.sleep(0.1)


def test_no_process_outlives_a_gateway_that_is_killed(stock: Server) -> None:
    """Even SIGKILL, which it cannot notice, takes guardian and engine with it."""
    processes = session_tree(stock.process.pid)
    assert len(processes) >= 5  # gateway, guardian, HTTP process, scheduler, detokenizer
    os.kill(stock.process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while (left := survivors(processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left <= {stock.process.pid}
