"""However a call ends, nothing of it stays: its tenant, who may have one call at a time, can make the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from fake_engine import CHAT, SECRET, FakeEngine, Gateway, Seen, identity, running_engine, running_gateway
from script_launch import until

from autellix_server.gateway.fleet.holding import Holding
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.fleet.line import Line
from autellix_server.gateway.fleet.member import Member
from autellix_server.gateway.fleet.window import Window, WindowSettings
from autellix_server.gateway.tenants.keys import digest_of, new_key
from autellix_server.scheduling.levels import Levels
from autellix_server.scheduling.planner import Planner
from autellix_server.scheduling.policies import make_policy

KEY = new_key()
PROGRAMS = "/autellix/v1/programs"
LOST = Interruption("engine e0 is lost", "engine_lost", retryable=True)


class World:
    """One tenant, one engine."""

    def __init__(self, gateway: Gateway, engine: FakeEngine) -> None:
        self.gateway = gateway
        self.engine = engine
        self.at_engine = asyncio.Event()

    @property
    def member(self) -> Member:
        """The engine as the gateway has it."""
        (member,) = self.gateway.fleet
        return member

    async def call(self, program: str = "p1", *, stream: bool = False) -> int | str:
        """Make a call; return its status, or how its answer broke off."""
        headers = {**identity(program), "Authorization": f"Bearer {KEY}"}
        url, body = self.gateway.url + "/v1/chat/completions", {**CHAT, "stream": stream}
        try:
            async with self.gateway.client.post(url, json=body, headers=headers) as response:
                await response.read()
                return response.status
        except aiohttp.ClientPayloadError:
            return "cut short"

    async def ask(self, verb: str) -> None:
        """Ask for something to be done with the program."""
        headers = {"Authorization": f"Bearer {KEY}"}
        path = f"{PROGRAMS}/p1/{verb}" if verb else PROGRAMS
        status, _ = await self.gateway.json("POST", path, json={"id": "p1"} if not verb else {}, headers=headers)
        assert status in {200, 201}

    async def hang(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        """Never answer."""
        self.at_engine.set()
        await asyncio.sleep(60)
        raise AssertionError("nobody waits so long")

    async def hang_in_stream(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        """Begin to answer."""
        self.at_engine.set()
        return await self.engine.stay_silent(request, seen)

    async def hang_in_body(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        """Begin an answer that is passed on as it comes."""
        answer = web.StreamResponse(headers={"Content-Length": "10000000", "Content-Type": "application/json"})
        await answer.prepare(request)
        await answer.write(b"{")
        return await self.hang(request, seen)


@pytest.fixture(params=[SECRET, None], ids=["ours", "not ours"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """A gateway in front of an engine of ours, or of one that has a line."""
    keys = tmp_path / "keys.toml"
    digest = digest_of(KEY).hex()
    keys.write_text(f'[tenants.acme]\nconcurrent_calls = 1\n[[keys]]\ntenant = "acme"\nsha256 = "{digest}"\n')
    keys.chmod(0o600)
    async with running_engine(request.param) as engine, running_gateway(engine, keys_file=keys) as gateway:
        made = World(gateway, engine)
        if request.param is None:
            planner = Planner(make_policy("fcfs", Levels(())))
            made.member.line = Line(Holding(planner), Window(WindowSettings(fixed=1)), gateway.ledger.clock)
        yield made


Way = Callable[[World], Awaitable[object]]


def answers(status: int) -> Way:
    """The engine refuses it, or fails."""

    async def way(world: World) -> None:
        async def refuse(request: web.Request, seen: Seen) -> web.StreamResponse:
            return web.json_response({}, status=status)

        world.engine.behave = refuse
        assert await world.call() == status

    return way


def dies(behave: str, *, stream: bool, status: int) -> Way:
    """The engine goes away."""

    async def way(world: World) -> None:
        world.engine.behave = getattr(world.engine, behave)
        assert await world.call(stream=stream) == status

    return way


def ended(behave: str, how: str, outcome: int | str | None) -> Way:
    """Something ends it while it hangs at the engine, or before."""

    async def way(world: World) -> None:
        world.engine.behave = getattr(world, behave, None)
        if not behave:
            await world.ask("")
            await world.ask("pause")
        call = asyncio.create_task(world.call(stream=behave == "hang_in_stream"))
        await until(lambda: bool((row := world.gateway.program("acme.p1")) and row.calls))
        if behave:
            await asyncio.wait_for(world.at_engine.wait(), 5)
        if how == "leave":
            call.cancel()
        elif how == "lose":
            world.member.lose_calls(LOST)
        else:
            await world.ask(how)
        (got,) = await asyncio.wait_for(asyncio.gather(call, return_exceptions=True), 5)
        assert got == outcome or (outcome is None and isinstance(got, asyncio.CancelledError))

    return way


WAYS = {
    **{f"answered {status}": answers(status) for status in (400, 429, 500)},
    "died at once": dies("die_at_once", stream=False, status=503),
    "died in stream": dies("die_within_stream", stream=True, status=200),
    "paused, left": ended("", "leave", None),
    "paused, cancelled": ended("", "cancel", 409),
    "waiting, left": ended("hang", "leave", None),
    "waiting, cancelled": ended("hang", "cancel", 409),
    "waiting, lost": ended("hang", "lose", 503),
    "in stream, left": ended("hang_in_stream", "leave", None),
    "in stream, cancelled": ended("hang_in_stream", "cancel", 200),
    "in stream, lost": ended("hang_in_stream", "lose", 200),
    "in body, left": ended("hang_in_body", "leave", None),
    "in body, cancelled": ended("hang_in_body", "cancel", "cut short"),
    "in body, lost": ended("hang_in_body", "lose", "cut short"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_however_a_call_ends_nothing_of_it_stays(world: World, way: Way) -> None:
    """Neither at its tenant, nor in its program, nor at the engine, which gets the next one."""
    await way(world)
    row, member = world.gateway.program("acme.p1"), world.member
    await until(lambda: row.completed == 1)
    assert (len(row.calls), len(member.calls), member.breaker.state(world.gateway.clock())) == (0, 0, "closed")
    if member.line is not None:
        assert (member.line.held, member.line._window.in_flight) == (0, 0)
    world.engine.behave = None
    assert await world.call("p2") == 200
    assert world.gateway.program("acme.p2").completed == 1
