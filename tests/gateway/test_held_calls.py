"""Calls that wait in front of an engine without our planner: whatever becomes of them, nothing of them stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import pytest
from aiohttp import web
from fake_engine import CHAT, FakeEngine, Gateway, Seen, identity, running_engine, running_gateway
from script_launch import until

from autellix_server.engine.supervisor import EngineState, EngineStatus
from autellix_server.gateway.fleet.holding import Holding
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.fleet.line import Line
from autellix_server.gateway.fleet.member import Member
from autellix_server.gateway.fleet.window import Answered, Sent, Window, WindowSettings
from autellix_server.scheduling.levels import Levels
from autellix_server.scheduling.planner import Planner
from autellix_server.scheduling.policies import make_policy

COMPLETIONS = "/v1/chat/completions"
LOST = Interruption("engine e0 is lost", "engine_lost", retryable=True)
AWAY = EngineStatus(EngineState.UNREACHABLE, "it does not answer")


class WatchedWindow(Window):
    """A window of one call that notes what it could have learned from."""

    def __init__(self) -> None:
        super().__init__(WindowSettings(fixed=1))
        self.lessons: list[Answered] = []

    def answered(self, sent: Sent, answered: Answered) -> None:
        """Note it."""
        self.lessons.append(answered)
        super().answered(sent, answered)


class World:
    """A gateway in front of engines that are not ours; one call goes into each at a time."""

    def __init__(self, gateway: Gateway, engines: list[FakeEngine]) -> None:
        self.gateway = gateway
        self.engines = engines
        self.windows = [WatchedWindow() for _ in engines]
        for engine, window in zip(engines, self.windows, strict=True):
            planner = Planner(make_policy("fcfs", Levels(())))
            self.member(engine.name).line = Line(Holding(planner), window, gateway.ledger.clock)

    def member(self, name: str = "e0") -> Member:
        """Return an engine as the gateway has it."""
        member = self.gateway.fleet.get(name)
        assert member is not None
        return member

    @property
    def held(self) -> int:
        """Calls that wait for the first engine."""
        line = self.member().line
        assert line is not None
        return line.held

    @property
    def rest(self) -> list[tuple[int, int, int]]:
        """Return what is left of calls: of the gateway's, in windows and in lines."""
        members = list(self.gateway.fleet)
        held = [0 if member.line is None else member.line.held for member in members]
        return [
            (len(member.calls), window.in_flight, waiting)
            for member, window, waiting in zip(members, self.windows, held, strict=True)
        ]

    async def call(self, number: int, program: str = "p1") -> int:
        """Make a call and return its status."""
        headers = identity(program, f"0.{number}")
        async with self.gateway.client.post(self.gateway.url + COMPLETIONS, json=CHAT, headers=headers) as response:
            await response.read()
            return response.status

    async def one_inside_and_held(self, held: int) -> list[asyncio.Task[int]]:
        """Have a call in the first engine, which is silent, and others wait for it."""
        inside = asyncio.Event()

        async def hang(request: web.Request, seen: Seen) -> web.StreamResponse:
            inside.set()
            await asyncio.sleep(60)
            raise AssertionError("nobody waits so long")

        self.engines[0].behave = hang
        calls = [asyncio.create_task(self.call(0))]
        await asyncio.wait_for(inside.wait(), 5)
        calls += [asyncio.create_task(self.call(number)) for number in range(1, held + 1)]
        await until(lambda: self.held == held)
        return calls


@asynccontextmanager
async def world(engines: int = 1) -> AsyncIterator[World]:
    """Run one."""
    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(running_engine(None, f"e{number}")) for number in range(engines)]
        yield World(await stack.enter_async_context(running_gateway(fakes, policy="fcfs")), fakes)


@contextmanager
def drained(member: Member) -> Iterator[None]:
    """Let an engine have no new calls for a while."""
    member.draining = True
    yield
    member.draining = False


async def test_cancelling_a_program_ends_its_calls_at_the_engine_and_in_line() -> None:
    """The place that becomes free goes to none of those that end as well, and to whoever comes next."""
    async with world() as now:
        calls = await now.one_inside_and_held(5)
        await now.gateway.json("POST", "/autellix/v1/programs/p1/cancel", json={})
        assert await asyncio.wait_for(asyncio.gather(*calls), 5) == [409] * 6
        await until(lambda: now.rest == [(0, 0, 0)])
        now.engines[0].behave = None
        assert await now.call(0, "p2") == 200
        assert (now.rest, len(now.gateway.program("p1").calls)) == ([(0, 0, 0)], 0)


async def test_clients_that_leave_while_they_wait_leave_nothing() -> None:
    """Their programs are charged nothing, and nobody waits for them."""
    async with world() as now:
        inside, *waiting = await now.one_inside_and_held(3)
        for call in waiting:
            call.cancel()
        await until(lambda: now.held == 0)
        assert now.rest == [(1, 1, 0)]
        inside.cancel()
        await until(lambda: now.rest == [(0, 0, 0)])
        assert len(now.engines[0].seen) == 1


async def test_calls_held_for_an_engine_that_is_lost_go_to_another() -> None:
    """They were not sent anywhere yet."""
    async with world(2) as now:
        with drained(now.member("e1")):
            calls = await now.one_inside_and_held(3)
        now.member().draining = True
        now.member().lose_calls(LOST)
        assert await asyncio.wait_for(asyncio.gather(*calls), 5) == [200] * 4
        assert now.rest == [(0, 0, 0)] * 2
        assert (len(now.engines[0].seen), len(now.engines[1].seen)) == (1, 4)


@pytest.mark.parametrize(("engines", "status"), [(2, 200), (1, 503)])
async def test_a_call_whose_engine_went_away_while_it_waited_goes_to_another(engines: int, status: int) -> None:
    """Or is told to come back if there is none."""
    async with world(engines) as now:
        with drained(now.member(f"e{engines - 1}")) if engines > 1 else drained(Member(now.engines[0])):
            inside, *waiting = await now.one_inside_and_held(2)
        now.engines[0].status = AWAY
        inside.cancel()
        assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [status] * 2
        assert now.rest == [(0, 0, 0)] * engines


async def test_a_call_that_is_lost_and_cancelled_at_once_is_not_sent_again() -> None:
    """What its program was told counts more than what its engine did."""
    async with world(2) as now:
        with drained(now.member("e1")):
            calls = await now.one_inside_and_held(0)
        (ticket,) = now.member().calls
        ticket.interrupt(LOST)
        ticket.interrupt(Interruption("the program was cancelled", "program_cancelled", retryable=False))
        ticket.interrupt(LOST)
        assert await asyncio.wait_for(calls[0], 5) == 409
        assert now.engines[1].seen == []


@pytest.mark.parametrize("status", [400, 429, 503])
async def test_nothing_is_learned_from_an_engines_refusal(status: int) -> None:
    """It is quick, whatever else the engine does."""

    async def refuse(request: web.Request, seen: Seen) -> web.StreamResponse:
        return web.json_response({}, status=status)

    async with world() as now:
        now.engines[0].behave = refuse
        assert await now.call(0) == status
        assert (now.windows[0].lessons, now.rest) == ([], [(0, 0, 0)])
        now.engines[0].behave = None
        assert await now.call(1) == 200
        assert (len(now.windows[0].lessons), now.rest) == (1, [(0, 0, 0)])


async def test_calls_of_a_paused_program_stay_behind() -> None:
    """Also those that were in line already; whoever else is there goes ahead, and what was at the engine goes on."""
    async with world() as now:
        inside, *waiting = await now.one_inside_and_held(2)
        other = asyncio.create_task(now.call(0, "p2"))
        await until(lambda: now.held == 3)
        await now.gateway.json("POST", "/autellix/v1/programs/p1/pause", json={})
        assert not inside.done()
        now.engines[0].behave = None
        inside.cancel()
        assert await asyncio.wait_for(other, 5) == 200
        await until(lambda: now.rest == [(0, 0, 0)])
        assert not any(call.done() for call in waiting)
        await now.gateway.json("POST", "/autellix/v1/programs/p1/resume", json={})
        assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [200] * 2
        assert now.rest == [(0, 0, 0)]
