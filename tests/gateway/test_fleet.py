"""Several engines behind one gateway: who gets a call, and what happens when one of them does not answer it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest
from fake_engine import CHAT, WORDS, FakeEngine, Gateway, Seen, identity, running_engine, running_gateway

from autellix_sdk.bill import decode_bill
from autellix_sdk.wire import BILL_HEADER
from autellix_server.engine.supervisor import EngineState, EngineStatus
from autellix_server.gateway.fleet.interruption import Interruption

COMPLETIONS = "/v1/chat/completions"
LOST = Interruption("engine e0 is lost", "engine_lost", retryable=True)
LONG = {**CHAT, "messages": [{"role": "user", "content": "be " * 50_000}]}


@pytest.fixture
async def engines() -> AsyncIterator[list[FakeEngine]]:
    """Two engines of ours that answer."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running_engine(name=name)) for name in ("e0", "e1")]


@pytest.fixture
async def gateway(engines: list[FakeEngine]) -> AsyncIterator[Gateway]:
    """A gateway in front of both."""
    async with running_gateway(engines, policy="plas") as running:
        yield running


async def chat(gateway: Gateway, program: str = "p1", call: str = "0.0", **more: object) -> str:
    """Make a call and return its answer's text."""
    body = {**CHAT, **more}
    async with gateway.client.post(gateway.url + COMPLETIONS, json=body, headers=identity(program, call)) as response:
        assert response.status == 200
        return (await response.read()).decode()


async def test_a_call_goes_where_fewer_are(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """While one engine is busy with a call the other gets the next ones."""
    engines[0].behave = engines[0].stay_silent
    async with gateway.client.post(gateway.url + COMPLETIONS, json=CHAT, headers=identity("a")) as response:
        await response.content.readany()
        for number in range(3):
            await chat(gateway, "b", f"0.{number}")
    assert [len(engine.seen) for engine in engines] == [1, 3]


async def test_long_calls_of_a_program_stay_together(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """The second one goes to the engine of the first, although the other is idle."""
    await chat(gateway, "a", "0.0", **LONG)
    home = gateway.program("a").pin
    busy, other = engines if home == "e0" else engines[::-1]
    busy.behave = busy.stay_silent
    async with gateway.client.post(gateway.url + COMPLETIONS, json=CHAT, headers=identity("b")) as response:
        await response.content.readany()
        busy.behave = None
        await chat(gateway, "a", "0.1", **LONG)
    assert (len(busy.seen), len(other.seen)) == (3, 0)


async def test_a_call_that_an_engine_does_not_answer_goes_to_another(
    gateway: Gateway, engines: list[FakeEngine]
) -> None:
    """The client notices nothing, the failure is counted, and the program is charged once."""
    engines[0].behave = engines[0].die_at_once
    assert "".join(WORDS) in await chat(gateway)
    assert (len(engines[0].seen), len(engines[1].seen)) == (2, 1)
    assert (gateway.ledger.counters.engine_failures, gateway.ledger.counters.uncharged) == (1, 0)
    assert (gateway.program("p1").completed, gateway.program("p1").service_us) == (1, 5000)


async def test_a_call_is_charged_by_the_engine_that_answered_it(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """Not by one that died after it had sent its bill, and before all of its answer."""

    async def die_within_body(request: aiohttp.web.Request, seen: Seen) -> aiohttp.web.StreamResponse:
        headers = {"Content-Length": "100", "Content-Type": "application/json", BILL_HEADER: seen.bill(9).encode()}
        answer = aiohttp.web.StreamResponse(headers=headers)
        await answer.prepare(request)
        await answer.write(b"{")
        assert request.transport is not None
        request.transport.close()
        return answer

    engines[0].behave = die_within_body
    async with gateway.client.post(gateway.url + COMPLETIONS, json=CHAT, headers=identity()) as response:
        assert response.status == 200
        assert decode_bill(response.headers[BILL_HEADER]).service_us == 5000
    assert (gateway.program("p1").completed, gateway.program("p1").service_us) == (1, 5000)


async def test_a_call_is_tried_at_two_engines_and_no_more(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """A call that kills engines must not kill all of them."""
    async with running_engine(name="e2") as third:
        for engine in (*engines, third):
            engine.behave = engine.die_at_once
        async with (
            running_gateway([*engines, third]) as larger,
            larger.client.post(larger.url + COMPLETIONS, json=CHAT, headers=identity()) as response,
        ):
            assert (response.status, (await response.json())["error"]["code"]) == (503, "engine_unavailable")
    assert len(third.seen) == 0


async def test_a_stream_that_has_begun_is_not_tried_again(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """What was sent cannot be taken back: it ends with an error event."""
    engines[0].behave = engines[0].die_within_stream
    body = await chat(gateway, stream=True)
    assert json.loads(body.strip().split("data: ")[-1])["error"]["code"] == "engine_died"
    assert engines[1].seen == []


async def test_calls_of_a_lost_engine_go_to_another(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """An engine that hangs closes no connection: the gateway does, and asks elsewhere."""
    arrived = asyncio.Event()

    async def hang(request: object, seen: object) -> aiohttp.web.StreamResponse:
        arrived.set()
        await asyncio.sleep(60)
        raise AssertionError("the gateway has given up before")

    engines[0].behave = hang  # type: ignore[assignment]
    call = asyncio.create_task(chat(gateway))
    await asyncio.wait_for(arrived.wait(), 5)
    member = gateway.fleet.get("e0")
    assert member is not None
    member.lose_calls(LOST)
    assert "".join(WORDS) in await asyncio.wait_for(call, 5)
    assert all(not member.calls for member in gateway.fleet)


async def test_a_stream_of_a_lost_engine_ends_with_the_reason(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """It says what happened, and the engine's side of the call is closed."""
    engines[0].behave = engines[0].stay_silent
    async with gateway.client.post(
        gateway.url + COMPLETIONS, json={**CHAT, "stream": True}, headers=identity()
    ) as response:
        await response.content.readany()
        member = gateway.fleet.get("e0")
        assert member is not None
        member.lose_calls(LOST)
        rest = (await asyncio.wait_for(response.read(), 5)).decode()
    assert json.loads(rest.strip().split("data: ")[-1])["error"] == {
        "message": "engine e0 is lost",
        "type": "server_error",
        "code": "engine_lost",
    }
    await asyncio.wait_for(engines[0].left.wait(), 5)
    assert gateway.ledger.counters.engine_failures == 1


async def test_a_drained_engine_gets_no_new_calls(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """Not even of programs whose engine it was; with all drained the client is told."""
    await chat(gateway, "a", "0.0", **LONG)
    home = gateway.fleet.get(gateway.program("a").pin)
    assert home is not None
    home.draining = True
    await chat(gateway, "a", "0.1", **LONG)
    assert [len(engine.seen) for engine in engines] == [1, 1]
    for member in gateway.fleet:
        member.draining = True
    status, reply = await gateway.json("POST", COMPLETIONS, json=CHAT)
    assert (status, reply["error"]["code"]) == (503, "engine_unavailable")


async def test_an_operator_drains_an_engine_and_restores_it(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """By its name; the list shows it."""
    path = "/autellix/v1/engines"
    assert (await gateway.json("POST", f"{path}/e0/drain", json={}))[1]["draining"] is True
    await chat(gateway)
    assert [len(engine.seen) for engine in engines] == [0, 1]
    _, listed = await gateway.json("GET", path)
    assert {name: row["draining"] for name, row in listed["engines"].items()} == {"e0": True, "e1": False}
    assert (await gateway.json("POST", f"{path}/e0/restore", json={}))[1]["draining"] is False
    await chat(gateway, "p2")
    assert [len(engine.seen) for engine in engines] == [1, 1]
    status, reply = await gateway.json("POST", f"{path}/e7/drain", json={})
    assert (status, reply["error"]["message"]) == (404, "there is no such engine; there are: e0, e1")


async def test_an_engine_that_starts_again_gets_no_calls_meanwhile(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """The fleet is ready as long as one of them is."""
    engines[0].status = EngineStatus(EngineState.RESTARTING, "exited with status 137")
    for number in range(2):
        await chat(gateway, "a", f"0.{number}")
    assert [len(engine.seen) for engine in engines] == [0, 2]
    assert (await gateway.json("GET", "/ready"))[0] == 200
    engines[1].status = EngineStatus(EngineState.STARTING, "loading weights")
    status, reply = await gateway.json("GET", "/ready")
    assert status == 503
    assert "e0 restarting: exited with status 137; e1 starting: loading weights" in reply["error"]["message"]


@pytest.fixture
async def mixed() -> AsyncIterator[tuple[Gateway, FakeEngine, FakeEngine]]:
    """A gateway in front of two engines with different models."""
    async with (
        running_engine(name="small", models=("tiny",)) as small,
        running_engine(name="large", models=("huge",)) as large,
        running_gateway([small, large]) as gateway,
    ):
        yield gateway, small, large


async def test_where_engines_differ_the_model_decides(mixed: tuple[Gateway, FakeEngine, FakeEngine]) -> None:
    """Also for what runs no model; one that nobody serves is a 404 that lists those there are."""
    gateway, small, large = mixed
    for model in ("tiny", "huge", "huge"):
        await chat(gateway, model=model)
    await gateway.json("POST", "/v1/tokenize", json={"model": "huge", "prompt": "x"})
    assert (len(small.seen), len(large.seen)) == (1, 3)
    status, reply = await gateway.json("POST", COMPLETIONS, json={**CHAT, "model": "other"})
    assert (status, reply["error"]["code"]) == (404, "model_not_found")
    assert "tiny, huge" in reply["error"]["message"]
    status, reply = await gateway.json("POST", COMPLETIONS, data=b"[")
    assert (status, reply["error"]["code"]) == (400, "model_required")


async def test_a_model_whose_engine_is_away_is_not_unknown(mixed: tuple[Gateway, FakeEngine, FakeEngine]) -> None:
    """It may come back."""
    gateway, _, large = mixed
    large.status = EngineStatus(EngineState.RESTARTING, "exited", models=("huge",))
    status, reply = await gateway.json("POST", COMPLETIONS, json={**CHAT, "model": "huge"})
    assert (status, reply["error"]["code"]) == (503, "engine_unavailable")


async def test_models_of_all_engines_are_one_list(mixed: tuple[Gateway, FakeEngine, FakeEngine]) -> None:
    """Each once."""
    gateway, small, large = mixed

    def listing(*names: str) -> object:
        async def behave(request: object, seen: object) -> aiohttp.web.Response:
            return aiohttp.web.json_response({"object": "list", "data": [{"id": name} for name in names]})

        return behave

    small.behave, large.behave = listing("tiny"), listing("huge", "tiny")  # type: ignore[assignment]
    status, reply = await gateway.json("GET", "/v1/models")
    assert (status, sorted(row["id"] for row in reply["data"])) == (200, ["huge", "tiny"])


async def test_a_resource_is_found_at_the_engine_that_has_it(gateway: Gateway, engines: list[FakeEngine]) -> None:
    """A stored response is known to one engine alone; what none knows is a 404."""

    async def unknown(request: object, seen: object) -> aiohttp.web.Response:
        return aiohttp.web.json_response({"error": "unknown"}, status=404)

    engines[0].behave = unknown  # type: ignore[assignment]
    assert (await gateway.json("GET", "/v1/responses/r1"))[0] == 200
    engines[1].behave = unknown  # type: ignore[assignment]
    assert await gateway.json("GET", "/v1/responses/r1") == (404, {"error": "unknown"})
