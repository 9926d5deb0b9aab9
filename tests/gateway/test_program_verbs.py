"""What an operator can ask of a live program: pause, resume, boost, cancel."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import ClientPayloadError, ClientResponse, web
from fake_engine import CHAT, FakeEngine, Gateway, Seen, identity
from script_launch import until

from autellix_server.gateway import exchange

COMPLETIONS = "/v1/chat/completions"


async def verb(gateway: Gateway, name: str, program: str = "p1", **body: object) -> tuple[int, dict[str, object]]:
    """Ask for something and return status and the program's row."""
    return await gateway.json("POST", f"/autellix/v1/programs/{program}/{name}", json=body)


async def call(gateway: Gateway, number: int, program: str = "p1") -> int:
    """Make a call and return its status."""
    headers = identity(program, f"0.{number}")
    async with gateway.client.post(gateway.url + COMPLETIONS, json=CHAT, headers=headers) as response:
        await response.read()
        return response.status


async def test_a_paused_programs_calls_wait_until_it_is_resumed(gateway: Gateway, engine: FakeEngine) -> None:
    """Other programs go on, and the wait is in the bill as other time."""
    await call(gateway, 0)
    assert (await verb(gateway, "pause"))[1]["paused"] is True
    waiting = asyncio.create_task(call(gateway, 1))
    await until(lambda: len(gateway.program("p1").calls) == 1)
    assert await call(gateway, 0, "p2") == 200
    assert len(engine.seen) == 2
    assert (await verb(gateway, "resume"))[1]["paused"] is False
    assert await asyncio.wait_for(waiting, 5) == 200
    assert [seen.context.program for seen in engine.seen] == ["p1", "p2", "p1"]


async def test_a_client_that_leaves_while_its_program_is_paused_leaves_nothing(
    gateway: Gateway, engine: FakeEngine
) -> None:
    """The engine never hears of the call."""
    await call(gateway, 0)
    await verb(gateway, "pause")
    waiting = asyncio.create_task(call(gateway, 1))
    await until(lambda: len(gateway.program("p1").calls) == 1)
    waiting.cancel()
    await until(lambda: not gateway.program("p1").calls)
    assert len(engine.seen) == 1


async def test_a_boosted_program_is_stamped_as_if_it_had_attained_nothing(gateway: Gateway, engine: FakeEngine) -> None:
    """Until it is taken back; what it attained is counted all the while."""
    engine.service_us = 3_000_000
    await call(gateway, 0)
    assert (await verb(gateway, "boost"))[1]["boosted"] is True
    await call(gateway, 1)
    assert (await verb(gateway, "boost", boosted=False))[1]["boosted"] is False
    await call(gateway, 2)
    assert [seen.stamp.base_service_us for seen in engine.seen] == [0, 0, 6_000_000]


async def test_cancelling_ends_a_program_and_what_it_has_in_flight(gateway: Gateway, engine: FakeEngine) -> None:
    """At the engine, while it streams, and while it is paused; further calls are refused until it is opened again."""
    engine.behave = engine.stay_silent
    streamed = {**CHAT, "stream": True}
    async with gateway.client.post(gateway.url + COMPLETIONS, json=streamed, headers=identity()) as response:
        await response.content.readany()
        await verb(gateway, "pause")
        waiting = asyncio.create_task(call(gateway, 1))
        await until(lambda: len(gateway.program("p1").calls) == 2)
        status, row = await verb(gateway, "cancel")
        assert (status, row["cancelled"]) == (200, True)
        rest = (await asyncio.wait_for(response.read(), 5)).decode()
    assert json.loads(rest.strip().split("data: ")[-1])["error"]["code"] == "program_cancelled"
    assert await asyncio.wait_for(waiting, 5) == 409
    await asyncio.wait_for(engine.left.wait(), 5)
    await until(lambda: gateway.program("p1").ended_s is not None)
    engine.behave = None
    assert await call(gateway, 2) == 409
    await gateway.json("POST", "/autellix/v1/programs", json={"id": "p1"})
    assert await call(gateway, 3) == 200


@pytest.mark.parametrize("name", ["pause", "resume", "boost", "cancel"])
async def test_an_unknown_program_is_a_404(gateway: Gateway, name: str) -> None:
    """Nothing is made up for it."""
    assert (await verb(gateway, name, "nobody"))[0] == 404
    assert gateway.program("nobody") is None


async def test_cancelling_is_not_the_engines_fault(gateway: Gateway, engine: FakeEngine) -> None:
    """However much of an answer was passed on, streamed or not: the engine stays trusted."""

    async def half_an_answer(request: web.Request, seen: Seen) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "10000000", "Content-Type": "application/json"})
        await answer.prepare(request)
        await answer.write(b'{"half')
        await asyncio.sleep(60)
        return answer

    member = gateway.fleet.get("e0")
    assert member is not None
    for number, behave in enumerate([half_an_answer, engine.stay_silent] * 3):
        engine.behave = behave
        name = f"p{number}"
        async with gateway.client.post(gateway.url + COMPLETIONS, json=CHAT, headers=identity(name)) as response:
            await response.content.readany()
            assert (await verb(gateway, "cancel", name))[0] == 200
            if behave is half_an_answer:
                with pytest.raises(ClientPayloadError):
                    await asyncio.wait_for(response.read(), 5)
            else:
                await asyncio.wait_for(response.read(), 5)
    await until(lambda: not member.calls)
    assert (gateway.ledger.counters.engine_failures, member.breaker.state(gateway.clock())) == (0, "closed")


async def test_verbs_on_a_program_that_has_ended_meanwhile_change_no_other(
    gateway: Gateway, engine: FakeEngine
) -> None:
    """It is remembered with what was asked of it, so that its next call is held; then it may go on."""
    await call(gateway, 0)
    await gateway.json("POST", "/autellix/v1/programs/end", json={"programs": [{"id": "p1"}]})
    for name in ("pause", "boost"):
        status, row = await verb(gateway, name)
        assert (status, row["state"]) == (200, "ended")
    waiting = asyncio.create_task(call(gateway, 1))
    await until(lambda: len(gateway.program("p1").calls) == 1)
    await verb(gateway, "resume")
    assert await asyncio.wait_for(waiting, 5) == 200
    assert engine.seen[1].stamp.base_service_us == 0


class Deaf(web.StreamResponse):
    """An answer whose client has stopped reading."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Wait until there is room for the end."""
        await asyncio.Event().wait()


async def test_a_client_that_does_not_read_keeps_no_cancelled_call(
    gateway: Gateway, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engine stops at once, and the program ends soon, though nobody takes the error."""
    relayed = exchange._relayed

    def unread(response: web.StreamResponse, answer: ClientResponse) -> web.StreamResponse:
        return relayed(Deaf(status=response.status, headers=response.headers), answer)

    monkeypatch.setattr(exchange, "_relayed", unread)
    monkeypatch.setattr(exchange, "_LAST_WORD_S", 0.05)
    engine.behave = engine.stay_silent
    body = {**CHAT, "stream": True}
    async with gateway.client.post(gateway.url + COMPLETIONS, json=body, headers=identity()) as response:
        await response.content.readany()
        await verb(gateway, "cancel")
        await asyncio.wait_for(engine.left.wait(), 5)
        await until(lambda: not gateway.program("p1").calls)
        with pytest.raises(ClientPayloadError):
            await asyncio.wait_for(response.read(), 5)
