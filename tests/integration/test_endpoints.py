"""What SGLang serves under ``/v1``, through the gateway on the real engine: each answers as ever, and is billed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from autellix_sdk.bill import decode_bill
from autellix_sdk.wire import BILL_COMMENT, BILL_HEADER
from autellix_server.engine.home import Home
from tests.integration.server import Server

pytestmark = pytest.mark.engine

MODEL = "smollm2-135m-instruct"
MESSAGES = [{"role": "user", "content": "hi"}]
CALLS: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": MESSAGES, "max_tokens": 4, "ignore_eos": True},
    "completions": {"prompt": "hi", "max_tokens": 4, "ignore_eos": True},
    "messages": {"messages": MESSAGES, "max_tokens": 4},
    "responses": {"input": "hi", "max_output_tokens": 4},
}
BENCHMARK = """
import runpy, sys
import sglang.srt.platforms
runpy.run_module("sglang.benchmark.serving", run_name="__main__")
"""


@pytest.mark.parametrize("path", CALLS)
def test_a_call_is_answered_and_billed(server: Server, path: str) -> None:
    """In one piece."""
    answer = httpx.post(f"{server.base_url}/{path}", json={"model": MODEL, **CALLS[path]}, timeout=60)
    assert answer.status_code == 200, answer.text
    bill = decode_bill(answer.headers[BILL_HEADER])
    assert 0 < bill.output_tokens <= 4
    assert bill.service_us > 0


@pytest.mark.parametrize("path", CALLS)
def test_a_stream_goes_on_to_its_end_and_is_billed(server: Server, path: str) -> None:
    """With a comment for who asks for one; for others, who need not know comments, without."""
    body = {"model": MODEL, "stream": True, **CALLS[path]}
    asked, plain = (
        httpx.post(f"{server.base_url}/{path}", json=body, headers=headers, timeout=60).content
        for headers in ({BILL_HEADER: "1"}, {})
    )
    (comment,) = (line for line in asked.splitlines() if line.startswith(b":"))
    assert decode_bill(comment.removeprefix(BILL_COMMENT).decode()).output_tokens > 0
    assert not [line for line in plain.splitlines() if line.startswith(b":")]
    assert all(answer.count(b"data: ") > 3 for answer in (asked, plain))


def test_text_is_tokenized(server: Server) -> None:
    """Which is no call of a program: nothing is billed."""
    answer = httpx.post(f"{server.base_url}/tokenize", json={"model": MODEL, "prompt": "hi there"})
    assert answer.json()["count"] == len(answer.json()["tokens"]) == 2
    assert BILL_HEADER not in answer.headers


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sglang-oai", "sglang-oai-chat"])
def test_the_engines_own_benchmark_runs_through(
    server: Server, engine_python: Path, tmp_path: Path, backend: str
) -> None:
    """`sglang.benchmark.serving`, which knows no comments in streams, counts every request as a success."""
    words = ["--backend", backend, "--base-url", server.url, "--model", MODEL, "--dataset-name", "random-ids"]
    words += ["--tokenizer", str(Home.from_environment().models / MODEL), "--num-prompts", "6"]
    words += ["--random-input-len", "32", "--random-output-len", "8", "--output-file", str(tmp_path / "found")]
    run = subprocess.run(
        [engine_python, "-c", BENCHMARK, *words],
        env={**os.environ, "AUTELLIX_CPU": "1", "AUTELLIX_POLICY": "off", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads((tmp_path / "found").read_text())["completed"] == 6
