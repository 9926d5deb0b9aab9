"""What each arm is given: calls that arrive by the clock, and streams that are all open at once."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER
from autellix_server.gateway_bench.client import Exchange, LoadClient
from autellix_server.gateway_bench.wire import PATH, chat_body

Kind = Literal["plain", "streamed"]
KINDS: tuple[Kind, ...] = ("plain", "streamed")

OPENING_S = 1.0
"""In which the streams of a rung are opened, one after the other."""

_PROGRAMS = 50
_SETTLE_S = 10.0
_LEAD_S = 0.05
"""From when a load is made to when its first request is due."""


@dataclass(frozen=True, slots=True)
class Load:
    """What each arm is given in each of its turns.

    Attributes:
        rate: calls a second, in a Poisson stream.
        seconds: length of each slice of calls, and of each rung of streams.
        slices: pairs of slices, one direct and one through the arm, for each kind of call.
        call_events: tokens of a streamed call, all at once.
        prompt_bytes: length of prompts.
        per_stream: events a second of each stream.
        ladder: events a second of all streams together, ascending; empty: no streams.
        late_s: streams are late when one event in a hundred comes so long after it was due.
        held: streams of one event a second that are open at once while memory is measured; 0: it is not.
        seed: of the arrivals.
    """

    rate: float = 200.0
    seconds: float = 5.0
    slices: int = 2
    call_events: int = 4
    prompt_bytes: int = 2000
    per_stream: float = 50.0
    ladder: Sequence[int] = (1000, 2500, 5000, 7500, 10000, 15000, 20000, 25000, 30000, 40000, 50000)
    late_s: float = 0.05
    held: int = 500
    seed: int = 0


@dataclass(frozen=True, slots=True)
class CallsFound:
    """A slice of calls.

    Attributes:
        latencies_s: of calls that were answered completely, from when they were due to the last byte.
        failures: the others, by reason.
    """

    latencies_s: Sequence[float]
    failures: Counter[str]


@dataclass(frozen=True, slots=True)
class StreamsFound:
    """A rung of streams.

    Attributes:
        streams: that were opened.
        expected: events that were to come.
        delays_s: for each event that came, how long after it was due.
        failures: streams that did not end well, by reason.
    """

    streams: int
    expected: int
    delays_s: Sequence[float]
    failures: Counter[str]


async def offer_calls(url: str, load: Load, kind: Kind, seconds: float, salt: str) -> CallsFound:
    """Send calls for some seconds, at their times and whatever became of the others, and wait for the answers.

    Args:
        url: of a gateway, or of the engine itself.
        load: how many, and what they ask.
        kind: streamed or not.
        seconds: for how long.
        salt: the same salt gives the same moments, so that a pair of slices has them in common.
    """
    streamed = kind == "streamed"
    events = load.call_events if streamed else 1
    body = chat_body(events, 0, stream=streamed, prompt_bytes=load.prompt_bytes)
    draw = random.Random(f"{load.seed} {salt}")
    exchanges: list[Exchange] = []
    with undisturbed():
        begin_s = asyncio.get_running_loop().time() + _LEAD_S
        due_s = begin_s + draw.expovariate(load.rate)
        while due_s < begin_s + seconds:
            exchanges.append(Exchange(due_s, _request(url, body, len(exchanges)), events))
            due_s += draw.expovariate(load.rate)
        await _run(url, exchanges, _SETTLE_S)
    good = [exchange.latency_s for exchange in exchanges if exchange.good]
    return CallsFound(good, _failures(exchanges))


async def offer_streams(url: str, load: Load, streams: int, per_s: float, seconds: float) -> StreamsFound:
    """Open streams, spread over `OPENING_S`, and wait for their ends.

    Args:
        url: of a gateway, or of the engine itself.
        load: which prompts they have.
        streams: how many.
        per_s: events a second of each.
        seconds: for how long each goes on.
    """
    events = max(1, round(seconds * per_s))
    body = chat_body(events, per_s, stream=True, prompt_bytes=load.prompt_bytes)
    with undisturbed():
        begin_s = asyncio.get_running_loop().time() + _LEAD_S
        exchanges = [
            Exchange(begin_s + number * OPENING_S / streams, _request(url, body, number), events)
            for number in range(streams)
        ]
        await _run(url, exchanges, seconds + _SETTLE_S)
    delays = [delay_s for exchange in exchanges for delay_s in exchange.delays_s]
    return StreamsFound(streams, streams * events, delays, _failures(exchanges))


async def answers(url: str, load: Load) -> str:
    """Make one call and return what is wrong with its answer; empty: nothing."""
    client, now = LoadClient(url), asyncio.get_running_loop().time()
    body = chat_body(1, 0, stream=False, prompt_bytes=load.prompt_bytes)
    exchange = Exchange(now, _request(url, body, 0), 1)
    try:
        client.begin(exchange)
        await client.settle(_SETTLE_S)
    finally:
        client.close()
    return "" if exchange.good else _reason(exchange)


async def _run(url: str, exchanges: Sequence[Exchange], limit_s: float) -> None:
    client = LoadClient(url)
    try:
        await client.offer(exchanges)
        await client.settle(limit_s)
    finally:
        client.close()


def _request(url: str, body: bytes, number: int) -> bytes:
    """Return a call as it goes over the wire: the same bytes to all, with an identity that only ours reads."""
    lines = (
        f"POST {PATH} HTTP/1.1",
        f"Host: {url.partition('//')[2]}",
        "Content-Type: application/json",
        "Authorization: Bearer none",
        f"{PROGRAM_HEADER}: p{number % _PROGRAMS}",
        f"{CALL_HEADER}: v1;s=a;t=0;c=0.{number}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*lines, "", "")).encode() + body


def _failures(exchanges: Sequence[Exchange]) -> Counter[str]:
    return Counter(_reason(exchange) for exchange in exchanges if not exchange.good)


def _reason(exchange: Exchange) -> str:
    if exchange.error:
        return exchange.error
    if exchange.ended_s is None:
        return "it did not end in time"
    return f"it has {len(exchange.delays_s)} tokens instead of {exchange.events}"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector of this process out of the figures."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
