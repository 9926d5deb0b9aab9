"""The load: it does not wait for answers, counts from when calls were due, and says what went wrong."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from gateway_bench_world import Says, listening

from autellix_server.gateway_bench.client import Exchange, LoadClient
from autellix_server.gateway_bench.load import KINDS, Kind, Load, answers, offer_calls, offer_streams
from autellix_server.gateway_bench.precise import precise_loop

LOAD = Load(rate=100, seconds=0.3, prompt_bytes=10)
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize("kind", KINDS)
async def test_all_calls_of_the_same_salt_are_answered_alike(kind: Kind) -> None:
    """As many as the clock says, in the same moments."""
    async with listening() as url:
        first, again = [await offer_calls(url, LOAD, kind, 0.3, "salt") for _ in range(2)]
    assert len(first.latencies_s) == len(again.latencies_s) > 10
    assert not first.failures
    assert min(first.latencies_s) > 0


async def test_streams_bring_every_event() -> None:
    """As many streams as were asked for, of as many events."""
    async with listening() as url:
        found = await offer_streams(url, LOAD, 10, 50, 0.3)
    assert (found.streams, found.expected, len(found.delays_s)) == (10, 150, 150)
    assert not found.failures


async def test_a_call_leaves_while_others_are_in_flight_and_counts_from_when_it_was_due() -> None:
    """A server that stalls is charged for the stall by every call that falls into it."""
    free = asyncio.Event()
    clock = asyncio.get_running_loop().time
    async with listening(partial(Says, EMPTY, free)) as url:
        client, now = LoadClient(url), clock()
        exchanges = [Exchange(now - late_s, b"GET / HTTP/1.1\r\n\r\n", 0) for late_s in (3.0, 2.0, 1.0)]
        await client.offer(exchanges)
        assert client.in_flight == 3
        assert not await client.settle(0)
        free.set()
        assert await client.settle(10)
        client.close()
    assert all(exchange.good for exchange in exchanges)
    assert [exchange.latency_s > late_s for exchange, late_s in zip(exchanges, (3.0, 2.0, 1.0), strict=True)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the connection was closed: no reason"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "it is answered with 503"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "an answer has no length"),
        (EMPTY, "it has 0 tokens instead of 1"),
    ],
)
async def test_what_is_wrong_with_an_answer_is_said(data: bytes, reason: str) -> None:
    """Whether one call is made or many."""
    free = asyncio.Event()
    free.set()
    async with listening(partial(Says, data, free)) as url:
        assert await answers(url, LOAD) == reason
        found = await offer_calls(url, LOAD, "plain", 0.1, "salt")
    assert not found.latencies_s
    assert set(found.failures) == {reason}


async def test_nobody_there_is_a_reason_too() -> None:
    """As while a server starts."""
    async with listening() as url:
        pass
    assert (await answers(url, LOAD)).startswith("there is no connection: ")


def test_a_precise_loop_wakes_within_a_millisecond_of_what_it_was_asked_for() -> None:
    """Where epoll would round up; the least of many tries, since the machine may be busy."""

    async def lateness() -> float:
        loop = asyncio.get_running_loop()
        late_s = []
        for _ in range(50):
            due_s = loop.time() + 0.0011
            await asyncio.sleep(due_s - loop.time())
            late_s.append(loop.time() - due_s)
        return min(late_s)

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        assert runner.run(lateness()) < 0.0005
