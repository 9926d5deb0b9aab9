"""Workers: the same answers as from one process, and nothing is lost when one of them dies."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fake_engine import CHAT, KEY, WORDS, FakeEngine, Gateway, Seen, identity, running_engine
from script_launch import until

from autellix_sdk.bill import decode_bill
from autellix_server.engine.guardian import live_processes
from autellix_server.gateway.app import make_apps, make_runner
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.fleet.member import Member
from autellix_server.gateway.gateway import Gateway as TheGateway
from autellix_server.gateway.settings import ServeSettings
from autellix_server.gateway.sockets import bind
from autellix_server.gateway.workers.crew import Crew

COMPLETIONS = "/v1/chat/completions"
LOST = Interruption("engine e0 is lost", "engine_lost", retryable=True)


@asynccontextmanager
async def crewed_gateway(engines: list[FakeEngine], folder: Path, **more: Any) -> AsyncIterator[Gateway]:
    """Run a gateway with a worker in front of engines."""
    settings = ServeSettings(**{"port": 0, "policy": "plas", "workers": 1, **more})
    made = TheGateway(settings, environ={})
    for engine in engines:
        made.fleet.add(Member(engine))
    runner = make_runner(make_apps(made).main)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "api")).start()
    bound = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    try:
        async with (
            Crew(settings, made.dispatcher, bound, str(folder / "api")),
            aiohttp.ClientSession(auto_decompress=False) as client,
        ):
            yield Gateway(url, made.fleet, made.ledger, client, time.monotonic)  # type: ignore[arg-type]
    finally:
        await runner.cleanup()


@pytest.fixture
async def engines() -> AsyncIterator[list[FakeEngine]]:
    """Two engines of ours that answer."""
    async with running_engine(name="e0") as first, running_engine(name="e1") as second:
        yield [first, second]


@pytest.fixture
async def gateway(engines: list[FakeEngine], tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with one worker in front of both."""
    async with crewed_gateway(engines, tmp_path) as running:
        yield running


def workers() -> Iterator[int]:
    """Return the processes that are workers of ours."""
    for entry in live_processes():
        if (
            entry.parent == os.getpid()
            and b"gateway.workers.process" in Path(f"/proc/{entry.pid}/cmdline").read_bytes()
        ):
            yield entry.pid


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_is_answered_billed_and_charged(gateway: Gateway, engines: list[FakeEngine], stream: bool) -> None:
    """Identity in and bill out, stamped and settled by the process that has the table."""
    for number in range(2):
        body = {**CHAT, "stream": stream}
        headers = {**identity(call=f"0.{number}"), "Authorization": "Bearer mine"}
        async with gateway.client.post(gateway.url + COMPLETIONS, json=body, headers=headers) as response:
            answer = (await response.read()).decode()
            assert response.status == 200
            bill = response.headers.get("x-autellix-bill") or answer.partition(": autellix ")[2].partition("\n")[0]
            assert decode_bill(bill).program == "p1"
    seen = [seen for engine in engines for seen in engine.seen]
    assert sorted(one.stamp.base_service_us for one in seen) == [0, 5000]
    assert all(one.header("authorization") == [f"Bearer {KEY}"] for one in seen)
    assert (gateway.program("p1").completed, gateway.program("p1").service_us) == (2, 10_000)


async def test_everything_else_is_answered_as_ever(gateway: Gateway) -> None:
    """The gateway's own API, models, refusals, checks of who asks."""
    assert (await gateway.json("GET", "/health"))[1]["status"] == "ok"
    status, row = await gateway.json("POST", "/autellix/v1/programs", json={"id": "p9"})
    assert (status, row["id"]) == (201, "p9")
    assert (await gateway.json("GET", "/v1/models"))[1]["data"][0]["id"] == "tiny"
    assert (await gateway.json("POST", "/v1/tokenize", json={"prompt": "x"}))[0] == 200
    for path, headers, expected in (
        ("/v1/loads", {}, 404),
        ("/nowhere", {}, 404),
        ("/v1/models", {"Host": "evil.example"}, 403),
    ):
        async with gateway.client.get(gateway.url + path, headers=headers) as response:
            assert response.status == expected, path


async def test_a_call_that_an_engine_does_not_answer_goes_to_another(
    gateway: Gateway, engines: list[FakeEngine]
) -> None:
    """Counted where the counters are; when none is left the refusal is the gateway's."""
    engines[0].behave = engines[0].die_at_once
    status, _ = await gateway.json("POST", COMPLETIONS, json=CHAT, headers=identity())
    assert (status, len(engines[1].seen), gateway.ledger.counters.engine_failures) == (200, 1, 1)
    engines[1].behave = engines[1].die_at_once
    status, reply = await gateway.json("POST", COMPLETIONS, json=CHAT, headers=identity())
    assert (status, reply["error"]["code"]) == (503, "engine_unavailable")


async def test_a_client_that_leaves_cancels_its_call(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """At the engine, and in the table; also while it waits for its program to be resumed."""
    engines[0].behave = engines[0].stay_silent
    async with gateway.client.post(gateway.url + COMPLETIONS, json=CHAT, headers=identity()) as response:
        await response.content.readany()
        assert len(gateway.program("p1").calls) == 1
    await asyncio.wait_for(engines[0].left.wait(), 5)
    await until(lambda: not gateway.program("p1").calls)
    await gateway.json("POST", "/autellix/v1/programs/p1/pause", json={})
    waiting = asyncio.create_task(gateway.json("POST", COMPLETIONS, json=CHAT, headers=identity()))
    await until(lambda: gateway.program("p1").calls)
    waiting.cancel()
    await until(lambda: not gateway.program("p1").calls)


async def test_an_interruption_reaches_the_worker(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """A stream ends with the reason; a call that has no answer yet goes elsewhere."""
    first, second = engines
    first.behave = first.stay_silent
    streamed = {**CHAT, "stream": True}
    async with gateway.client.post(gateway.url + COMPLETIONS, json=streamed, headers=identity()) as response:
        await response.content.readany()
        member = gateway.fleet.get("e0")
        assert member is not None
        member.lose_calls(LOST)
        rest = (await asyncio.wait_for(response.read(), 5)).decode()
    assert json.loads(rest.strip().split("data: ")[-1])["error"]["code"] == "engine_lost"
    arrived = asyncio.Event()

    async def hang(request: object, seen: object) -> web.StreamResponse:
        arrived.set()
        await asyncio.sleep(60)
        raise AssertionError("the gateway has given up before")

    first.behave = hang  # type: ignore[assignment]
    call = asyncio.create_task(gateway.json("POST", COMPLETIONS, json=CHAT, headers=identity()))
    await asyncio.wait_for(arrived.wait(), 5)
    member.lose_calls(LOST)
    status, reply = await asyncio.wait_for(call, 5)
    assert (status, reply["choices"][0]["message"]["content"]) == (200, "".join(WORDS))
    assert len(second.seen) == 1


async def test_a_worker_that_dies_leaves_nothing_and_is_replaced(engines: list[FakeEngine], tmp_path: Path) -> None:
    """Its calls are over in the table, at once; another one takes its place."""
    async with crewed_gateway(engines, tmp_path) as gateway:
        engines[0].behave = engines[0].stay_silent
        async with gateway.client.post(gateway.url + COMPLETIONS, json=CHAT, headers=identity()) as response:
            await response.content.readany()
            (worker,) = workers()
            os.kill(worker, signal.SIGKILL)
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        await until(lambda: not gateway.program("p1").calls)
        assert all(not member.calls for member in gateway.fleet)
        engines[0].behave = None
        status, _ = await gateway.json("POST", COMPLETIONS, json=CHAT, headers=identity("p2"))
        assert status == 200
        assert list(workers()) != [worker]
    assert list(workers()) == []


async def test_models_are_read_where_engines_differ(engines: list[FakeEngine], tmp_path: Path) -> None:
    """The worker is told, since it has the bodies."""
    first, second = engines
    first.status = replace(first.status, models=("tiny",))
    second.status = replace(second.status, models=("huge",))
    async with crewed_gateway(engines, tmp_path) as gateway:
        await until_models_are_read(gateway)
        first.seen.clear()
        await gateway.json("POST", COMPLETIONS, json={**CHAT, "model": "huge"}, headers=identity())
        assert (len(first.seen), len(second.seen)) == (0, 1)


async def test_a_model_of_any_length_may_be_asked_for(engines: list[FakeEngine], tmp_path: Path) -> None:
    """It is refused, and the worker goes on: other clients' calls are in it."""
    for engine, model in zip(engines, ("tiny", "huge"), strict=True):
        engine.status = replace(engine.status, models=(model,))
    async with crewed_gateway(engines, tmp_path) as gateway:
        await until_models_are_read(gateway)
        (worker,) = workers()
        body = json.dumps({**CHAT, "model": "x" * (2 << 20)}).encode()
        status, reply = await gateway.json("POST", COMPLETIONS, data=BytesIO(body))
        assert (status, reply["error"]["code"]) == (404, "model_not_found")
        assert list(workers()) == [worker]


async def until_models_are_read(gateway: Gateway) -> None:
    """Wait until the worker was told to read models; until then calls are told to wait."""
    status = 503
    while status == 503:
        status, reply = await gateway.json("POST", COMPLETIONS, json=CHAT)
    assert status == 200, reply


async def test_calls_in_flight_end_when_the_gateway_stops(engines: list[FakeEngine], tmp_path: Path) -> None:
    """As long as the grace period: they are billed and charged as ever."""
    going_on = asyncio.Event()

    def listens() -> bool:
        return any(sockets(worker) & sockets(os.getpid()) for worker in workers())

    async def wait(request: web.Request, seen: Seen) -> web.StreamResponse:
        going_on.set()
        await until(lambda: not listens())
        return await engines[0].answer(request, seen)

    engines[0].behave = wait
    async with aiohttp.ClientSession() as client:
        async with crewed_gateway(engines[:1], tmp_path) as gateway:
            call = asyncio.create_task(client.post(gateway.url + COMPLETIONS, json=CHAT, headers=identity()))
            await asyncio.wait_for(going_on.wait(), 10)
            assert listens()
        async with await call as response:
            assert (response.status, "x-autellix-bill" in response.headers) == (200, True)
        assert gateway.program("p1").service_us == 5000


def sockets(process: int) -> set[str]:
    """Return the sockets that a process has open."""
    links = [os.path.realpath(link).rpartition("/")[2] for link in Path(f"/proc/{process}/fd").iterdir()]
    return {link for link in links if link.startswith("socket:")}


async def test_a_call_that_fails_in_the_gateway_is_answered(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of ours is in the log, and no client waits for ever."""

    async def fail(*args: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("autellix_server.gateway.dispatch.Dispatcher.admit", fail)
    status, reply = await asyncio.wait_for(gateway.json("POST", COMPLETIONS, json=CHAT), 10)
    assert (status, reply["error"]["code"]) == (503, "internal_error")
    assert "a call has failed in the gateway" in caplog.text


async def test_workers_log_as_the_gateway_does(
    engines: list[FakeEngine], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the format that was asked for, and at its level."""
    engines[0].behave = engines[0].die_at_once
    async with crewed_gateway(engines, tmp_path, log_format="json") as gateway:
        await gateway.json("POST", COMPLETIONS, json=CHAT, headers=identity())
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["message"].startswith("engine e0 failed a request")


async def test_a_worker_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engines: list[FakeEngine], caplog: pytest.LogCaptureFixture
) -> None:
    """A machine that is full for a moment must not leave a gateway that accepts nobody."""
    monkeypatch.setattr("autellix_server.gateway.workers.crew._BACKOFF_S", 0.01)
    start, refusals = asyncio.create_subprocess_exec, [OSError(errno.EAGAIN, "no more processes")] * 2

    async def full(*args: Any, **options: Any) -> asyncio.subprocess.Process:
        if refusals:
            raise refusals.pop()
        return await start(*args, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", full)
    async with crewed_gateway(engines, tmp_path) as gateway:
        status, _ = await gateway.json("POST", COMPLETIONS, json=CHAT)
    assert status == 200
    assert [record.getMessage() for record in caplog.records] == [
        "worker 0 cannot be started: no more processes; it is started again in 0 s",
    ] * 2
