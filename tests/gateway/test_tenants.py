"""Several tenants at one gateway: keys, programs of their own, limits, and where each of them stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fake_engine import CHAT, Clock, FakeEngine, Gateway, identity, running_engine, running_gateway
from script_launch import until

from autellix_sdk.bill import decode_bill
from autellix_server.gateway.app import make_apps, make_runner
from autellix_server.gateway.gateway import Gateway as TheGateway
from autellix_server.gateway.settings import ServeSettings
from autellix_server.gateway.tenants.keys import digest_of, new_key

COMPLETIONS = "/v1/chat/completions"
PROGRAMS = "/autellix/v1/programs"
ACME, UMBRELLA = new_key(), new_key()
KEYS = f"acme:{digest_of(ACME).hex()},umbrella:{digest_of(UMBRELLA).hex()}"


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    """An engine of ours that answers."""
    async with running_engine() as fake:
        yield fake


@pytest.fixture
async def gateway(engine: FakeEngine) -> AsyncIterator[Gateway]:
    """A gateway with two tenants in front of it."""
    async with running_gateway(engine, environ={"AUTELLIX_KEYS": KEYS}, policy="plas") as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    """Return the header with a key."""
    return {"Authorization": f"Bearer {key}"}


async def call(gateway: Gateway, key: str, program: str, number: int = 0) -> Any:
    """Make a call and return its bill."""
    headers = {**identity(program, f"0.{number}"), **bearer(key)}
    async with gateway.client.post(gateway.url + COMPLETIONS, json=CHAT, headers=headers) as response:
        assert response.status == 200
        return decode_bill(response.headers["x-autellix-bill"])


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/tokenize", PROGRAMS, f"{PROGRAMS}/end"])
@pytest.mark.parametrize("headers", [{}, bearer("x" * 46), {"x-api-key": ""}])
async def test_without_a_good_key_there_is_nothing(
    gateway: Gateway, engine: FakeEngine, path: str, headers: dict[str, str]
) -> None:
    """Neither calls nor programs, and no engine hears of it."""
    status, reply = await gateway.json("POST", path, json=CHAT, headers=headers)
    assert (status, reply["error"]["code"]) == (401, "invalid_api_key")
    assert engine.seen == []
    assert gateway.ledger.counters.calls == 0


async def test_a_key_may_come_as_any_of_the_apis_sends_it(gateway: Gateway, engine: FakeEngine) -> None:
    """And ends at the gateway."""
    for headers in (bearer(ACME), {"x-api-key": ACME}, {"api-key": ACME}):
        status, _ = await gateway.json("POST", COMPLETIONS, json=CHAT, headers=headers)
        assert status == 200
    assert ACME not in str(engine.seen)


async def test_two_tenants_may_call_their_programs_alike(gateway: Gateway, engine: FakeEngine) -> None:
    """Table and engine tell them apart; each client sees its own name for it, and its own account."""
    bills = [await call(gateway, key, "p1", number) for number, key in enumerate((ACME, UMBRELLA, ACME))]
    assert [bill.program for bill in bills] == ["p1"] * 3
    assert [seen.context.program for seen in engine.seen] == ["acme.p1", "umbrella.p1", "acme.p1"]
    assert [seen.stamp.base_service_us for seen in engine.seen] == [0, 0, 5000]
    assert [seen.stamp.tenant.name for seen in engine.seen] == ["acme", "umbrella", "acme"]
    for key, calls in ((ACME, 2), (UMBRELLA, 1)):
        status, row = await gateway.json("GET", f"{PROGRAMS}/p1", headers=bearer(key))
        assert (status, row["id"], row["calls_completed"], row["bill"]["program"]) == (200, "p1", calls, "p1")


async def test_a_tenant_sees_and_touches_only_its_own_programs(gateway: Gateway) -> None:
    """Whatever it calls them, another's are not there."""
    await call(gateway, ACME, "p1")
    for name in ("p1", "acme.p1"):
        for verb in ("pause", "cancel"):
            status, _ = await gateway.json("POST", f"{PROGRAMS}/{name}/{verb}", json={}, headers=bearer(UMBRELLA))
            assert status == 404
        assert (await gateway.json("GET", f"{PROGRAMS}/{name}/timeline", headers=bearer(UMBRELLA)))[0] == 404
        _, ended = await gateway.json(
            "POST", f"{PROGRAMS}/end", json={"programs": [{"id": name}]}, headers=bearer(UMBRELLA)
        )
        assert ended["results"][0]["status"] == 404
    assert (await gateway.json("GET", PROGRAMS, headers=bearer(UMBRELLA)))[1] == {"programs": [], "total": 0}
    _, listed = await gateway.json("GET", PROGRAMS, headers=bearer(ACME))
    assert ([row["id"] for row in listed["programs"]], listed["total"]) == (["p1"], 1)


async def test_the_account_of_a_tenant_grows_with_its_calls(gateway: Gateway, engine: FakeEngine) -> None:
    """The engine is told with each call, so that it can tell who is ahead."""
    engine.service_us = 2_000_000
    for number in range(3):
        await call(gateway, ACME, f"p{number}", number)
    stood = [seen.stamp.tenant.service_us for seen in engine.seen]
    assert stood == [0, 2_000_000, 4_000_000]


async def test_operators_endpoints_are_not_for_tenants(gateway: Gateway) -> None:
    """Not even on loopback: a key is no operator's."""
    for path in ("/metrics", "/autellix/v1/engines"):
        assert (await gateway.json("GET", path, headers=bearer(ACME)))[0] == 404


async def test_tenants_see_that_the_gateway_lives_and_nothing_of_its_engines(gateway: Gateway) -> None:
    """Where engines are, and how much others do there, is for operators."""
    status, health = await gateway.json("GET", "/health")
    assert (status, health["status"]) == (200, "ok")
    assert {name for name, value in health.items() if value is not None} == {"status", "version"}


async def test_a_tenant_over_its_limit_is_told_which_and_when_to_come_back(
    engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Others are served on; the limit is lifted when the file says so."""
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    entries = "".join(
        f'[[keys]]\ntenant = "{name}"\nsha256 = "{digest_of(key).hex()}"\n'
        for name, key in (("acme", ACME), ("umbrella", UMBRELLA))
    )
    file.write_text("[tenants.acme]\ncalls_per_minute = 2\nprograms = 1\n" + entries)
    file.chmod(0o600)
    async with running_gateway(engine, keys_file=file) as gateway:
        await call(gateway, ACME, "p1", 0)
        headers = {**identity("p2"), **bearer(ACME)}
        status, reply = await gateway.json("POST", COMPLETIONS, json=CHAT, headers=headers)
        assert (status, reply["error"]["code"]) == (429, "over_programs")
        await call(gateway, ACME, "p1", 1)
        headers = {**identity("p1", "0.2"), **bearer(ACME)}
        async with gateway.client.post(gateway.url + COMPLETIONS, json=CHAT, headers=headers) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "30")
            assert (await response.json())["error"]["code"] == "over_calls_per_minute"
        await call(gateway, UMBRELLA, "p1", 0)
        gateway.clock.now_s += 30
        await call(gateway, ACME, "p1", 3)
        status, _ = await gateway.json("POST", PROGRAMS, json={"id": "p9"}, headers=bearer(ACME))
        assert status == 429
        await gateway.json("POST", f"{PROGRAMS}/end", json={"programs": [{"id": "p1"}]}, headers=bearer(ACME))
        status, _ = await gateway.json("POST", PROGRAMS, json={"id": "p9"}, headers=bearer(ACME))
        assert status == 201


async def test_a_call_that_no_engine_got_costs_its_tenant_nothing(gateway: Gateway, engine: FakeEngine) -> None:
    """It waited because its program was paused; what an engine had and nothing was seen of costs a mean call."""
    engine.service_us = 2_000_000
    await call(gateway, ACME, "p1")
    await gateway.json("POST", f"{PROGRAMS}/p1/pause", json={}, headers=bearer(ACME))
    for number in (1, 2):
        waiting = asyncio.create_task(call(gateway, ACME, "p1", number))
        await until(lambda: len(gateway.program("acme.p1").calls) == 1)
        waiting.cancel()
        await until(lambda: not gateway.program("acme.p1").calls)
    await call(gateway, ACME, "p2")
    assert engine.seen[-1].stamp.tenant.service_us == 2_000_000
    hung = asyncio.Event()

    async def hang(request: object, seen: object) -> Any:
        hung.set()
        await asyncio.sleep(60)

    engine.behave = hang
    leaving = asyncio.create_task(call(gateway, ACME, "p2", 1))
    await asyncio.wait_for(hung.wait(), 5)
    leaving.cancel()
    await until(lambda: not gateway.program("acme.p2").calls)
    engine.behave = None
    await call(gateway, ACME, "p2", 2)
    assert engine.seen[-1].stamp.tenant.service_us == 6_000_000


async def test_a_program_that_an_operator_opens_ends_like_any_other() -> None:
    """Whoever's it is: the tenant's in its name, or nobody's."""
    clock = Clock()
    made = TheGateway(ServeSettings(admin_port=0), environ={"AUTELLIX_KEYS": KEYS}, clock=clock)
    admin = make_apps(made).admin
    assert admin is not None
    runner = make_runner(admin)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}{PROGRAMS}"
        async with aiohttp.ClientSession() as client:
            for name, tenant in (("acme.p1", "acme"), ("initech.p1", "initech")):
                async with client.post(url, json={"id": name}) as response:
                    row = await response.json()
                    assert (response.status, row["id"], row["tenant"]) == (201, name, tenant)
        clock.now_s += 10_000
        made.ledger.expire()
        assert (len(made.ledger.table), len(list(made.ledger.table.ended()))) == (0, 0)
    finally:
        await runner.cleanup()
