"""Several real engines behind one gateway."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from autellix_sdk.bill import CallBill, decode_bill
from autellix_sdk.wire import BILL_HEADER, CALL_HEADER, PROGRAM_HEADER
from tests.integration.server import START_LIMIT_S, Server, serve

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def until(condition: Callable[[], bool]) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + START_LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def states(server: Server) -> dict[str, str]:
    """Return how the engines are."""
    return {name: row["state"] for name, row in httpx.get(f"{server.url}/health").json()["engines"].items()}


def call(server: Server, program: str, tokens: int) -> CallBill:
    """Make a call and return its bill."""
    headers = {PROGRAM_HEADER: program, CALL_HEADER: "v1;s=a;t=0;c=0.0"}
    body = {"model": "default", "prompt": program, "max_tokens": tokens, "ignore_eos": True}
    answer = httpx.post(f"{server.base_url}/completions", json=body, headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    return decode_bill(answer.headers[BILL_HEADER])


def test_two_engines_share_programs_and_outlive_each_other(engine_python: Path) -> None:
    """Calls side by side run on both; when one is killed its calls run on the other, and it is started again."""
    with serve("--engines", "2", "--state", "none") as server, ThreadPoolExecutor(4) as pool:
        until(lambda: states(server) == {"e0": "ready", "e1": "ready"})
        bills = list(pool.map(lambda number: call(server, f"p{number}", 32), range(4)))
        assert {bill.engine for bill in bills} == {"e0", "e1"}
        assert all(bill.output_tokens == 32 and bill.service_us > 0 for bill in bills)
        killed = server.engine_pid
        calls = [pool.submit(call, server, f"q{number}", 64) for number in range(4)]
        until(lambda: sum(row["calls"] for row in engines(server)) == 4)
        os.kill(killed, signal.SIGKILL)
        assert {one.result().engine for one in calls} == {"e1"}
        until(lambda: states(server) == {"e0": "ready", "e1": "ready"})
        assert server.engine_pid != killed


def engines(server: Server) -> list[dict[str, int]]:
    """Return what the gateway says of each engine."""
    rows: list[dict[str, int]] = list(httpx.get(f"{server.url}/health").json()["engines"].values())
    return rows
