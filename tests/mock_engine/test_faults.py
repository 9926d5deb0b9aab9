"""Faults: how they are written, which call gets one, and what a client sees of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from fake_engine import identity
from mock_world import JumpClock, Mock, running_mock, until
from openai import APIError, AsyncOpenAI, InternalServerError, RateLimitError

from autellix_sdk.errors import ConfigurationError
from autellix_server.mock_engine.faults import KINDS, FaultBox, StandingFault, make_fault, parse_fault

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "how are you?"}], "max_tokens": 10}
BODY = {**ASK, "ignore_eos": True}


@pytest.fixture
async def mock() -> AsyncIterator[Mock]:
    """A quick mock engine."""
    async with running_mock() as running:
        yield running


async def post(mock: Mock, **change: Any) -> tuple[int, bytes]:
    """Make a call and return status and body."""
    async with mock.client.post(f"{mock.url}/v1/chat/completions", json={**BODY, **change}) as reply:
        return reply.status, await reply.read()


def test_every_kind_is_written_with_its_values_or_without() -> None:
    """Defaults for what is left out."""
    assert parse_fault("refuse").to_json() == {"kind": "refuse", "status": 503, "seconds": 1}
    assert parse_fault("refuse:429:7").to_json() == {"kind": "refuse", "status": 429, "seconds": 7}
    assert parse_fault("slow:2.5")["factor"] == 2.5
    assert StandingFault.parse("cut:5@0.25").to_json() == {"kind": "cut", "tokens": 5, "probability": 0.25}
    assert {parse_fault(kind).kind for kind in KINDS} == set(KINDS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("burn@0.1", "unknown kind of fault 'burn'; choose one of: refuse, close"),
        ("hang:3@0.1", "too many values; hang"),
        ("refuse:404@0.1", "status of refuse is 404; choose one of: 429, 500, 503"),
        ("slow:0.5@0.1", "factor of slow is 0.5"),
        ("cut:many@0.1", "tokens of cut is 'many'; write a number"),
        ("cut:-1@0.1", "tokens of cut is -1"),
        ("cut:nan@0.1", "tokens of cut is nan"),
        ("cut", "write kind"),
        ("cut@0", "probability over 0"),
        ("cut@often", "probability over 0"),
    ],
)
def test_bad_faults_are_refused_with_what_would_be_right(text: str, said: str) -> None:
    """One sentence."""
    with pytest.raises(ConfigurationError, match=said):
        StandingFault.parse(text)


def test_draws_repeat_with_the_seed_and_are_not_shifted_by_orders() -> None:
    """The n-th call gets the same fault, but for those that were ordered."""

    def draws(seed: int, ordered: int = 0) -> list[str | None]:
        box = FaultBox([StandingFault.parse("cut@0.3"), StandingFault.parse("hang@0.3")], seed)
        box.schedule(make_fault("close", {}), ordered)
        return [fault and fault.kind for fault in (box.draw() for _ in range(200))]

    assert draws(1) == draws(1) != draws(2)
    assert draws(1, ordered=3) == ["close"] * 3 + draws(1)[3:]
    assert 40 < draws(1).count("cut") < 80
    assert 25 < draws(1).count("hang") < 60


async def test_refusals_are_errors_that_the_client_knows(mock: Mock) -> None:
    """Status and Retry-After; the client's own retries get through when the faults are used up."""
    await mock.order("refuse", status=429, seconds=3)
    async with AsyncOpenAI(base_url=f"{mock.url}/v1", api_key="any", max_retries=0) as client:
        with pytest.raises(RateLimitError) as caught:
            await client.chat.completions.create(**ASK)
        assert caught.value.response.headers["retry-after"] == "3"
        await mock.order("refuse", status=500)
        with pytest.raises(InternalServerError, match="a fault on demand"):
            await client.chat.completions.create(**ASK)
        await mock.order("refuse", seconds=0)
        assert (await client.with_options(max_retries=1).chat.completions.create(**ASK)).choices


async def test_close_drops_the_connection_before_the_first_byte(mock: Mock) -> None:
    """Nothing was computed."""
    await mock.order("close")
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await post(mock)
    assert (await mock.counters())["calls"] == 0


async def test_cut_ends_a_stream_after_some_tokens(mock: Mock) -> None:
    """The client sees them and then the end of the connection; the engine is free again."""
    await mock.order("cut", tokens=4)
    seen = bytearray()

    async def read() -> None:
        async with mock.client.post(f"{mock.url}/v1/chat/completions", json={**BODY, "stream": True}) as reply:
            async for chunk in reply.content.iter_any():
                seen.extend(chunk)

    with pytest.raises(aiohttp.ClientPayloadError):
        await read()
    assert seen.count(b"data: ") == 1 + 4
    assert b"[DONE]" not in seen
    await until(lambda: mock.server.engine.counters.aborted == 1)
    assert (await post(mock))[0] == 200


async def test_cut_ends_a_body_in_its_middle(mock: Mock) -> None:
    """The promised length does not come."""
    await mock.order("cut")
    with pytest.raises(aiohttp.ClientPayloadError):
        await post(mock)


async def test_hang_never_answers_until_the_client_leaves(mock: Mock) -> None:
    """The others are served meanwhile."""
    await mock.order("hang")
    hanging = asyncio.create_task(post(mock))
    await until(lambda: mock.server.faults.to_json()["fired"] == {"hang": 1})
    assert (await post(mock))[0] == 200
    assert not hanging.done()
    hanging.cancel()


async def test_garbage_is_neither_json_nor_a_stream_of_it(mock: Mock) -> None:
    """Status 200 all the same."""
    await mock.order("garbage", count=3)
    status, body = await post(mock)
    assert (status, body[:7]) == (200, b'{"id": ')
    status, body = await post(mock, stream=True)
    assert body.endswith(b"data: [DONE]\n\n")
    async with AsyncOpenAI(base_url=f"{mock.url}/v1", api_key="any", max_retries=0) as client:
        with pytest.raises((APIError, ValueError)):
            await client.chat.completions.create(**ASK)


async def test_unhealthy_says_so_while_calls_work(mock: Mock) -> None:
    """Until it is called off."""
    await mock.order("unhealthy", seconds=600)
    async with mock.client.get(f"{mock.url}/health") as reply:
        assert reply.status == 503
    assert (await post(mock))[0] == 200
    await mock.json("DELETE", "/mock/faults")
    async with mock.client.get(f"{mock.url}/health") as reply:
        assert reply.status == 200


async def test_slow_and_die_befall_the_engine_at_once() -> None:
    """Whether ordered or drawn; the call that drew it goes on."""
    clock = JumpClock()
    async with running_mock(clock=clock, faults=(StandingFault.parse("slow:3:5@1"),)) as mock, clock.running():
        await mock.order("slow", factor=2, seconds=7)
        assert (await post(mock))[0] == 200
        await mock.order("die")
        assert clock.slowed == [(2, 7), (3, 5)]
        assert mock.deaths == ["died"]


async def test_what_stands_is_scheduled_and_has_happened_is_shown_and_can_be_ended(mock: Mock) -> None:
    """The control endpoint."""
    await mock.order("cut", count=2)
    _, shown = await mock.json("GET", "/mock/faults")
    cut = {"kind": "cut", "tokens": 3}
    assert shown == {"standing": [], "scheduled": [cut, cut], "fired": {}}
    _, shown = await mock.json("DELETE", "/mock/faults")
    assert shown["scheduled"] == []
    assert (await post(mock))[0] == 200


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"kind": "burn"}, "unknown kind"),
        ({"count": 1}, "unknown kind of fault None"),
        ({"kind": "cut", "token": 3}, "cut has no parameter 'token'; it has tokens"),
        ({"kind": "cut", "tokens": "3"}, "tokens of cut is '3'"),
        ({"kind": "cut", "count": 0}, "count is 0"),
        ({"kind": "slow", "count": 2}, "leave count out"),
        ([], "an order is an object"),
    ],
)
async def test_bad_orders_are_refused(mock: Mock, order: Any, said: str) -> None:
    """Status 400 and one sentence."""
    status, reply = await mock.json("POST", "/mock/faults", json=order)
    assert status == 400
    assert said in reply["error"]["message"]


async def test_orders_are_json_as_pages_in_a_browser_cannot_send_it(mock: Mock) -> None:
    """Anything else is refused, and so is what cannot be parsed."""
    assert (await mock.json("POST", "/mock/faults", data=b'{"kind": "die"}'))[0] == 400
    status, reply = await mock.json("POST", "/mock/faults", data=b"{", headers={"content-type": "application/json"})
    assert status == 400
    assert reply["error"]["message"].startswith("the order is not JSON: ")
    assert mock.deaths == []


async def test_a_fault_does_not_touch_the_account_of_its_program(mock: Mock) -> None:
    """A call that was cut short leaves its program free to go on."""
    await mock.order("cut", tokens=2)
    body = {**BODY, "stream": True}
    with pytest.raises(aiohttp.ClientPayloadError):
        async with mock.client.post(f"{mock.url}/v1/chat/completions", json=body, headers=identity()) as reply:
            await reply.read()
    async with mock.client.post(f"{mock.url}/v1/chat/completions", json=BODY, headers=identity()) as reply:
        assert reply.status == 200
