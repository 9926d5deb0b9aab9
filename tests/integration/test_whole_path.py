"""The whole path on the real engine: unmodified OpenAI client, identity down to the scheduler, bill back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families

import autellix_sdk as autellix
from autellix_sdk.bill import CallBill, decode_bill
from autellix_sdk.wire import BILL_HEADER, PROGRAM_HEADER
from autellix_server.scheduling.bounds import DRIFT
from tests.integration.server import SLOTS, Server

pytestmark = pytest.mark.engine

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = "default"


@pytest.fixture(autouse=True)
def sdk(server: Server) -> Iterator[None]:
    """Line one of two: the SDK knows our server."""
    autellix.init(server.base_url)
    yield
    autellix.shutdown()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncOpenAI]:
    """The real asynchronous client."""
    async with AsyncOpenAI(base_url=server.base_url, api_key="none") as made:
        yield made


def question(text: str, **options: Any) -> dict[str, Any]:
    """Arguments of one short chat completion."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 8, **options}


def bill_of(response: Any) -> CallBill:
    """The bill in a raw response's header."""
    return decode_bill(response.headers[BILL_HEADER])


def assert_exact(bill: CallBill, client_wall_s: float) -> None:
    """The parts were checked to add up on decoding; the server's wall time lies within the client's."""
    assert bill.time.prefill_us > 0
    assert bill.time.wall_us <= client_wall_s * 1e6
    assert bill.time.other_us > 0


def test_sync_client_gets_its_answer_and_a_bill(server: Server) -> None:
    """A plain synchronous script: the answer is the model's, the bill is this call's."""
    with OpenAI(base_url=server.base_url, api_key="none") as client, autellix.program("sync") as program:
        began = time.monotonic()
        raw = client.chat.completions.with_raw_response.create(
            **question("What is the capital city of France? Answer in English.", temperature=0)
        )
        wall_s = time.monotonic() - began
    assert "Paris" in (raw.parse().choices[0].message.content or "")
    bill = bill_of(raw)
    assert (bill.program, bill.call, bill.engine) == (program.id, "0.0", "e0")
    assert_exact(bill, wall_s)
    assert program.bill().time == bill.time


async def test_ids_seen_by_the_scheduler_are_those_minted_in_the_client(client: AsyncOpenAI) -> None:
    """Parallel branches are threads of one program; the bill's IDs come from SGLang's scheduler process."""
    async with autellix.program("branches") as program:
        first = bill_of(await client.chat.completions.with_raw_response.create(**question("Begin.")))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(client.chat.completions.with_raw_response.create(**question(f"Branch {i}")))
                for i in range(3)
            ]
        last = bill_of(await client.chat.completions.with_raw_response.create(**question("Join.")))
    branches = {bill_of(task.result()).call for task in tasks}
    assert {first.program, last.program, *(bill_of(task.result()).program for task in tasks)} == {program.id}
    assert first.call == "0.0"
    assert branches == {"0.1", "1.0", "2.0"}
    assert last.call == "0.2"


async def test_concurrent_programs_do_not_mix(client: AsyncOpenAI) -> None:
    """Programs that run side by side in one event loop keep their own calls."""

    async def agent(name: str) -> tuple[str, list[CallBill]]:
        async with autellix.program(name) as program:
            bills = [
                bill_of(await client.chat.completions.with_raw_response.create(**question(f"{name} {i}")))
                for i in range(3)
            ]
        return program.id, bills

    for program_id, bills in await asyncio.gather(*(agent(f"agent-{i}") for i in range(4))):
        assert [bill.program for bill in bills] == [program_id] * 3
        assert [bill.call for bill in bills] == ["0.0", "0.1", "0.2"]


async def test_thread_pool_calls_belong_to_the_program_that_started_them(server: Server) -> None:
    """`to_thread` around the synchronous client keeps the program."""

    def ask(text: str) -> CallBill:
        with OpenAI(base_url=server.base_url, api_key="none") as client:
            return bill_of(client.chat.completions.with_raw_response.create(**question(text)))

    async with autellix.program("pool") as program:
        bills = await asyncio.gather(*(asyncio.to_thread(ask, f"Number {i}") for i in range(2)))
    assert {bill.program for bill in bills} == {program.id}
    assert {bill.call for bill in bills} == {"0.0", "1.0"}


async def test_streamed_call_is_billed_when_the_program_ends(client: AsyncOpenAI, server: Server) -> None:
    """A stream is not touched on the client's side; the end of the program brings its bill."""
    async with autellix.program("stream") as program:
        began = time.monotonic()
        stream = await client.chat.completions.create(**question("Say hello.", stream=True))
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        wall_s = time.monotonic() - began
    assert text
    bill = await asyncio.to_thread(program.bill, wait_s=10)
    assert (bill.calls, bill.pending, bill.threads) == (1, 0, 1)
    assert bill.time.decode_us > 0
    assert bill.time.wall_us <= wall_s * 1e6
    row = httpx.get(f"{server.url}/autellix/v1/programs/{program.id}").json()
    assert (row["name"], row["state"], row["calls_completed"]) == ("stream", "ended", 1)


def test_stream_on_the_wire_is_the_engines_plus_one_comment(server: Server) -> None:
    """The comment is the last line before the end marker; every other line is an event."""
    with httpx.stream("POST", f"{server.base_url}/chat/completions", json=question("Hi", stream=True)) as response:
        lines = [line for line in response.iter_lines() if line]
        assert BILL_HEADER not in response.headers
    assert lines[-1] == "data: [DONE]"
    assert lines[-2].startswith(": autellix {")
    assert all(line.startswith("data: {") for line in lines[:-2])
    assert decode_bill(lines[-2].removeprefix(": autellix ")).output_tokens > 0


def test_parallel_samples_are_one_call_with_the_service_of_all(server: Server) -> None:
    """With `n` samples the split follows the slowest one and the service counts each."""
    began = time.monotonic()
    response = httpx.post(f"{server.base_url}/completions", json={"model": MODEL, "prompt": "Once", "n": 3}, timeout=60)
    bill = bill_of(response)
    assert_exact(bill, time.monotonic() - began)
    assert bill.service_us > bill.time.prefill_us + bill.time.decode_us


def test_program_that_had_much_service_waits_behind_a_fresh_one(server: Server) -> None:
    """PLAS: of two calls that wait for the same slot, the fresh program's goes first though it came last."""
    autellix.shutdown()  # the programs are named by hand
    heavy = {PROGRAM_HEADER: "heavy-program"}

    async def run() -> tuple[CallBill, CallBill, list[str]]:
        order: list[str] = []
        async with httpx.AsyncClient(base_url=server.base_url, timeout=120) as http:

            async def call(name: str, tokens: int, headers: dict[str, str]) -> CallBill:
                body = {"model": MODEL, "prompt": name, "max_tokens": tokens, "ignore_eos": True}
                response = await http.post("/completions", json=body, headers=headers)
                order.append(name)
                return bill_of(response)

            await call("warm up", 48, heavy)
            while (await http.get(f"{server.url}/autellix/v1/programs/heavy-program")).json()["level"] < 2:
                await call("warm up", 48, heavy)
            blockers = [asyncio.create_task(call(f"blocker {i}", 64, {})) for i in range(SLOTS)]
            await until_active(http, server, SLOTS)
            late = asyncio.create_task(call("heavy", 4, heavy))
            await until_active(http, server, SLOTS + 1)
            fresh = asyncio.create_task(call("fresh", 4, {PROGRAM_HEADER: "fresh-program"}))
            await asyncio.gather(*blockers)
            return await late, await fresh, order

    heavy_bill, fresh_bill, order = asyncio.run(run())
    assert order.index("fresh") < order.index("heavy")
    assert heavy_bill.level[0] > fresh_bill.level[0] == 0
    assert heavy_bill.time.queued_us["admission"] > fresh_bill.time.queued_us["admission"] > 0


async def until_active(http: httpx.AsyncClient, server: Server, calls: int) -> None:
    """Wait until the gateway has `calls` calls in flight."""
    while True:
        rows = (await http.get(f"{server.url}/autellix/v1/programs")).json()["programs"]
        if sum(row["calls_active"] for row in rows) >= calls:
            return
        await asyncio.sleep(0.02)


def test_health_has_the_limits_of_the_engine(server: Server) -> None:
    """As the engine itself has chosen them; `autellix calibrate` needs no flags."""
    limits = httpx.get(f"{server.url}/health").json()["engines"]["e0"]["limits"]
    assert limits == {"slots": SLOTS, "kv_tokens": 32768, "chunk_tokens": 512}


def of_engine(metrics: str) -> dict[tuple[str, str], float]:
    """Return what the engine's plugin counts, by name and cause."""
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    return {
        (name.removeprefix("autellix_"), labels.get("cause", "")): value
        for name, labels, value, *_ in samples
        if name.startswith("autellix_") and not name.startswith("autellix_gateway_") and labels["engine"] == "e0"
    }


def test_bounds_follow_the_calls_and_are_shown(server: Server) -> None:
    """By the gateway's health, its levels and the metrics that the engine keeps, and in one line of the log."""
    for number in range(4):
        body = {"model": MODEL, "prompt": [f"{number} and {i}" for i in range(8)], "max_tokens": 2}
        assert httpx.post(f"{server.base_url}/completions", json=body, timeout=60).status_code == 200
    asked_s = time.monotonic()
    # The gateway looks at the engine every two seconds, and its metrics are those of the moment.
    while True:
        bounds = httpx.get(f"{server.url}/health").json()["engines"]["e0"]["bounds"]
        metrics = httpx.get(f"{server.url}/metrics").text
        shown = of_engine(metrics)
        if bounds["median_service_s"] and shown["first_bound_seconds", ""] == bounds["first_bound_s"]:
            break
        assert time.monotonic() < asked_s + 30, (bounds, shown)
    first_s, median_s = bounds["first_bound_s"], bounds["median_service_s"]
    assert bounds["calibrated"]
    assert bounds["bounds_s"] == [first_s * 2**index for index in range(7)]
    assert first_s / DRIFT <= median_s <= first_s * DRIFT
    assert ("level bounds follow the median" in server.engine_log()) == (first_s != 1.0)
    assert shown["finished_requests_total", ""] >= 32
    assert shown["queued_seconds_total", "admission"] > 0
    assert "sglang:num_running_reqs" in metrics


@pytest.mark.parametrize(
    "headers",
    [
        {"x-autellix-program": "not a program", "x-autellix-call": "v1;s=a;t=0;c=0.0"},
        {"x-autellix-program": "p", "x-autellix-call": "v1;s=a;t=0;c=0.0;n=" + "x" * 3000},
        {"x-autellix-program": "p", "x-autellix-call": "v9"},
        {"x-autellix-stamp": "v1;b=0;w=0;d=0;s=0;k=" + "0" * 32},
    ],
)
def test_hostile_identity_changes_nothing_for_the_client(server: Server, headers: dict[str, str]) -> None:
    """The call runs as its own program and is billed to that."""
    autellix.shutdown()
    response = httpx.post(f"{server.base_url}/chat/completions", json=question("Hi"), headers=headers, timeout=60)
    assert response.status_code == 200
    assert bill_of(response).program not in {"p", "not a program"}


def test_prompt_that_can_never_fit_gets_the_engines_own_error(server: Server) -> None:
    """An engine error reaches the client as it is, and the call is closed."""
    response = httpx.post(f"{server.base_url}/chat/completions", json=question("word " * 20_000), timeout=60)
    assert response.status_code == 400
    assert "context length" in response.text
    assert all(row["calls_active"] == 0 for row in httpx.get(f"{server.url}/autellix/v1/programs").json()["programs"])


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("react.py", ["--limit", "2", "--concurrency", "2", "--max-steps", "2"]),
        ("mcts.py", ["--numbers", "1", "2", "3", "4", "--iterations", "2", "--parallel", "2", "--samples", "2"]),
    ],
)
def test_example_runs_on_the_real_model(server: Server, script: str, arguments: list[str]) -> None:
    """The agents finish whatever the small model says, and the server knows each of their programs."""
    command = [sys.executable, str(EXAMPLES / script), "--base-url", server.base_url, "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        result = json.loads(line)
        row = httpx.get(f"{server.url}/autellix/v1/programs/{result['bill']['program']}").json()
        assert row["name"] == script.removesuffix(".py")
        assert row["calls_completed"] == result["calls"] > 0


def test_end_of_an_unknown_program_is_a_404_of_its_own(server: Server) -> None:
    """The rest of the batch is not affected."""
    httpx.post(f"{server.url}/autellix/v1/programs", json={"id": "known"})
    body = {"programs": [{"id": "unknown"}, {"id": "known"}]}
    results = httpx.post(f"{server.url}/autellix/v1/programs/end", json=body).json()["results"]
    assert [(result["id"], result["status"]) for result in results] == [("unknown", 404), ("known", 200)]
