"""A gateway that is started again knows its programs, their engines, and what was learned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from fake_engine import CHAT, FakeEngine, Gateway, identity, running_engine
from fake_engine import Clock as HandClock

from autellix_server.engine.supervisor import EngineState, EngineStatus
from autellix_server.gateway.app import make_apps, make_runner
from autellix_server.gateway.fleet.member import Member
from autellix_server.gateway.gateway import Gateway as TheGateway
from autellix_server.gateway.settings import ServeSettings
from autellix_server.stamp import decode_ended

COMPLETIONS = "/v1/chat/completions"
LONG = {**CHAT, "messages": [{"role": "user", "content": "be " * 50_000}]}


@asynccontextmanager
async def one_life(state: Path, *engines: FakeEngine) -> AsyncIterator[Gateway]:
    """Run a gateway with a state file in front of engines, from its start to its end."""
    clock = HandClock()
    made = TheGateway(ServeSettings(port=0, policy="plas"), state=state, environ={}, clock=clock)
    for engine in engines:
        made.fleet.add(Member(engine))
        made.engine_changed(engine.name, engine.status)
    runner = make_runner(make_apps(made).main)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield Gateway(url, made.fleet, made.ledger, client, clock)
    finally:
        await runner.cleanup()


async def call(gateway: Gateway, number: int, body: object = CHAT, **fields: str) -> None:
    """Make a call of program p1."""
    headers = identity("p1", f"0.{number}", **fields)
    async with gateway.client.post(gateway.url + COMPLETIONS, json=body, headers=headers) as response:
        assert response.status == 200
        await response.read()


async def test_programs_survive_with_account_pin_and_marks(tmp_path: Path) -> None:
    """The next call is stamped with what was attained before, and goes where the others went."""
    async with running_engine(name="e0") as first, running_engine(name="e1") as second:
        first.service_us = second.service_us = 3_000_000
        async with one_life(tmp_path / "state.db", first, second) as gateway:
            await call(gateway, 0, LONG)
            pin = gateway.program("p1").pin
            await gateway.json("POST", "/autellix/v1/programs/p1/boost", json={})
        async with one_life(tmp_path / "state.db", second, first) as gateway:
            row = gateway.program("p1")
            assert (row.pin, row.boosted, row.service_s, row.completed) == (pin, True, 3.0, 1)
            await gateway.json("POST", "/autellix/v1/programs/p1/boost", json={"boosted": False})
            await call(gateway, 1, LONG)
            _, health = await gateway.json("GET", "/health")
            assert health["state"]["degraded"] is False
        home, other = (first, second) if pin == "e0" else (second, first)
        assert (len(home.seen), len(other.seen)) == (2, 0)
        assert home.seen[1].stamp.base_service_us == 3_000_000


async def test_an_engine_that_starts_is_told_what_was_learned(tmp_path: Path) -> None:
    """Of programs that ended before the gateway was started again, and before the engine was."""
    async with running_engine() as engine:
        async with one_life(tmp_path / "state.db", engine) as gateway:
            await call(gateway, 0, n="agent")
            await gateway.json("POST", "/autellix/v1/programs/end", json={"programs": [{"id": "p1"}]})
        engine.seen.clear()
        async with one_life(tmp_path / "state.db", engine) as gateway:
            await call(gateway, 1)
            (told,) = engine.seen[0].header("x-autellix-ended")
            assert engine.status.address is not None
            assert engine.status.address.secret is not None
            (program,) = decode_ended(told, engine.status.address.secret)
            assert (program.program_class, program.service_us) == ("agent", 5000)


async def test_a_restarted_engine_is_told_again(tmp_path: Path) -> None:
    """Without a state file too: what it had learned died with it."""
    async with running_engine() as engine:
        made = TheGateway(ServeSettings(port=0), environ={}, clock=HandClock())
        member = Member(engine)
        made.fleet.add(member)
        row = made.ledger.table.open("p1", "agent", 0.0)  # type: ignore[arg-type]
        row.service_us = 7000
        made.tenants.count_program(row.id)
        made.ledger.end(row.id)
        assert [program.service_us for program in member.ended.take()] == [7000]
        made.engine_changed("e0", EngineStatus(EngineState.RESTARTING, "exited"))
        made.engine_changed("e0", engine.status)
        assert [program.service_us for program in member.ended.take()] == [7000]
