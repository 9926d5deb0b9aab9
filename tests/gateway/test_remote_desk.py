"""What a worker and the gateway say to each other may cross on its way."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pytest

from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.desk import CallRequest, Report
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.refusal import Refused
from autellix_server.gateway.workers.messages import encode, failure, text, told
from autellix_server.gateway.workers.remote import RemoteDesk, RemoteTicket

CALL = CallRequest("/v1/completions", {}, 2, None, False, None, (), 0.0)
LOST = failure(Interruption("the engine is lost", "engine_lost", retryable=True))
CANCELLED = failure(Interruption("the program was cancelled", "program_cancelled", retryable=False))


def placed(did: str, engine: str) -> dict[str, Any]:
    """Return the answer that a call has an engine."""
    return {"did": did, "address": told(EngineAddress(engine, "http://x", "", None)), "headers": {}, "priority": None}


def in_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Have a test fail that waits for what does not come; within its own task, which is the one that is interrupted."""

    @wraps(test)
    async def timed(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(5):
            await test(*args, **kwargs)

    return timed


@dataclass
class Other:
    """The gateway, played by a test."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def say(self, *messages: dict[str, Any]) -> None:
        """Say things about call 0 at once."""
        self.writer.write(b"".join(encode({"call": 0, **message}) for message in messages))

    async def hears(self) -> Any:
        """Return what the worker says next."""
        return json.loads(await asyncio.wait_for(self.reader.readline(), 5))["do"]


@pytest.fixture
async def ends() -> AsyncIterator[tuple[RemoteDesk, Other]]:
    """A worker's desk and the other end of its socket."""
    ours, theirs = socket.socketpair()
    desk = RemoteDesk(*await asyncio.open_unix_connection(sock=ours))
    other = Other(*await asyncio.open_unix_connection(sock=theirs))
    hearing = asyncio.create_task(desk.run())
    yield desk, other
    other.writer.close()
    await asyncio.wait_for(hearing, 5)
    desk._writer.close()


async def admitted(desk: RemoteDesk, other: Other) -> RemoteTicket:
    """Return a call that has an engine."""
    other.say(placed("admit", "e0"))
    ticket = await desk.admit(CALL)
    assert await other.hears() == "admit"
    return ticket


@in_time
async def test_an_interruption_may_come_with_the_answer(ends: tuple[RemoteDesk, Other]) -> None:
    """The call ends with its reason, not as if the client had left."""
    desk, other = ends
    other.say(placed("admit", "e0"), CANCELLED)
    with pytest.raises(Interruption, match="the program was cancelled"):
        await desk.admit(CALL)
    assert [await other.hears(), await other.hears()] == ["admit", "close"]


@in_time
async def test_the_answer_to_what_was_given_up_is_not_taken_for_another(ends: tuple[RemoteDesk, Other]) -> None:
    """An engine is lost while its bill is on the way: the call moves on."""
    desk, other = ends
    ticket = await admitted(desk, other)
    other.say(LOST)
    with pytest.raises(Interruption, match="the engine is lost"):
        await ticket.settle(b"bill")
    other.say({"did": "settle", "settled": text(b"bill")}, placed("move", "e1"))
    await ticket.move(Report("lost"))
    assert ticket.address.name == "e1"
    assert [await other.hears(), await other.hears()] == ["settle", "move"]


@in_time
async def test_a_call_that_leaves_an_engine_does_not_care_that_it_is_lost(ends: tuple[RemoteDesk, Other]) -> None:
    """Unlike its program's end."""
    desk, other = ends
    ticket = await admitted(desk, other)
    other.say(LOST, placed("move", "e1"))
    await ticket.move(Report("it did not answer"))
    assert ticket.address.name == "e1"
    other.say(CANCELLED)
    with pytest.raises(Interruption, match="the program was cancelled"):
        await ticket.move(Report("it did not answer"))


@in_time
async def test_nobody_waits_for_a_gateway_that_has_gone(ends: tuple[RemoteDesk, Other]) -> None:
    """Whether it went before or meanwhile: an answer goes on without its bill, a call is refused."""
    desk, other = ends
    ticket = await admitted(desk, other)
    settling = asyncio.create_task(ticket.settle(b"bill"))
    assert await other.hears() == "settle"
    other.writer.write(b'{"call": 0, "di')  # it died within a line
    other.writer.close()
    assert await settling is None
    assert await ticket.settle(b"bill") is None
    with pytest.raises(Refused, match="the gateway has stopped"):
        await ticket.move(Report())
    with pytest.raises(Refused, match="the gateway has stopped"):
        await desk.admit(CALL)
    with pytest.raises(Refused, match="the gateway has stopped"):
        await desk.resources({}, None)
