"""The gateway's own endpoints: programs, health, readiness, and who may ask."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from fake_engine import CHAT, FakeEngine, Gateway, identity, running_gateway

from autellix_sdk.bill import program_bill_from_json
from autellix_server.engine.supervisor import EngineState, EngineStatus
from autellix_server.gateway.guard import HostGuard, OriginGuard, is_loopback

PROGRAMS = "/autellix/v1/programs"


async def call(gateway: Gateway, program: str, number: int = 0) -> None:
    """Complete one call of a program."""
    status, _ = await gateway.json(
        "POST", "/v1/chat/completions", json=CHAT, headers=identity(program, f"0.{number}", n="agent")
    )
    assert status == 200


async def test_a_program_can_be_opened_before_its_first_call(gateway: Gateway) -> None:
    """With the ID given, or one that is made."""
    status, row = await gateway.json("POST", PROGRAMS, json={"id": "mine", "name": "react"})
    assert (status, row["id"], row["name"], row["state"], row["level"]) == (201, "mine", "react", "idle", 0)
    status, row = await gateway.json("POST", PROGRAMS, json={})
    assert status == 201
    assert gateway.program(row["id"]) is not None


@pytest.mark.parametrize("body", [{"id": "a b"}, {"id": ""}, {"id": 7}, {"name": "x" * 200}, [], "x"])
async def test_a_program_that_cannot_be_is_a_400(gateway: Gateway, body: Any) -> None:
    """The message says what is wrong with it."""
    status, reply = await gateway.json("POST", PROGRAMS, json=body)
    assert status == 400
    assert reply["error"]["type"] == "invalid_request_error"


async def test_a_row_shows_what_a_program_has_used(gateway: Gateway, engine: FakeEngine) -> None:
    """Level, service, wait, calls, threads, engines, and a bill that the SDK can read."""
    engine.service_us = 3_000_000
    await call(gateway, "p1")
    gateway.clock.now_s += 10
    status, row = await gateway.json("GET", f"{PROGRAMS}/p1")
    assert status == 200
    bill = program_bill_from_json(row.pop("bill"))
    assert row == {
        "id": "p1",
        "tenant": "",
        "name": "agent",
        "state": "idle",
        "level": 2,
        "service_s": 3.0,
        "wait_s": 0.001,
        "elapsed_s": 10.0,
        "calls_active": 0,
        "calls_completed": 1,
        "threads": 1,
        "engines": ["e0"],
        "pin": "e0",
        "paused": False,
        "boosted": False,
        "cancelled": False,
    }
    assert (bill.calls, bill.output_tokens, bill.tool_us) == (1, 4, 10_000_000)


async def test_the_list_shows_live_programs_and_on_request_ended_ones(gateway: Gateway) -> None:
    """The most recently active first."""
    for program in ("a", "b", "c"):
        await call(gateway, program)
    await gateway.json("POST", f"{PROGRAMS}/end", json={"programs": [{"id": "b", "status": "ok"}]})
    _, live = await gateway.json("GET", PROGRAMS)
    assert [row["id"] for row in live["programs"]] == ["c", "a"]
    _, everything = await gateway.json("GET", f"{PROGRAMS}?all=1")
    assert [(row["id"], row["state"]) for row in everything["programs"]][2:] == [("b", "ended")]
    assert everything["total"] == 3


async def test_a_batch_of_ends_answers_each_for_itself(gateway: Gateway) -> None:
    """An unknown program is a 404 of its own, and no error for the rest."""
    await call(gateway, "a")
    batch = {"programs": [{"id": "a", "status": "ok"}, {"id": "never seen"}, {"id": "a"}]}
    status, reply = await gateway.json("POST", f"{PROGRAMS}/end", json=batch)
    assert status == 200
    assert [(result["id"], result["status"]) for result in reply["results"]] == [
        ("a", 200),
        ("never seen", 404),
        ("a", 200),
    ]
    assert reply["results"][1]["bill"] is None
    assert program_bill_from_json(reply["results"][0]["bill"]).calls == 1
    assert (await gateway.json("GET", f"{PROGRAMS}/a"))[1]["state"] == "ended"


async def test_batches_and_bodies_are_bounded(gateway: Gateway) -> None:
    """Over the limit is a 413, whether by number or by bytes."""
    over = {"programs": [{"id": "a"}] * 1001}
    assert (await gateway.json("POST", f"{PROGRAMS}/end", json=over))[0] == 413
    large, headers = BytesIO(b" " * 2_000_000), {"Content-Type": "application/json"}
    assert (await gateway.json("POST", PROGRAMS, data=large, headers=headers))[0] == 413


async def test_an_unknown_program_or_endpoint_is_a_404_in_json(gateway: Gateway) -> None:
    """The gateway has one shape of error."""
    for method, path, status in [("GET", f"{PROGRAMS}/x", 404), ("GET", "/nothing", 404), ("DELETE", PROGRAMS, 405)]:
        got, reply = await gateway.json(method, path)
        assert (got, "message" in reply["error"]) == (status, True)


async def test_an_idle_program_ends_by_its_lease(engine: FakeEngine) -> None:
    """Its service outlives it."""
    async with running_gateway(engine, lease_s=60) as gateway:
        await call(gateway, "a")
        gateway.clock.now_s += 61
        gateway.ledger.expire()
        assert (await gateway.json("GET", f"{PROGRAMS}/a"))[1]["state"] == "ended"


async def test_health_is_the_gateways_and_ready_is_the_engines(gateway: Gateway, engine: FakeEngine) -> None:
    """Health tells how the engine is without depending on it."""
    assert await gateway.json("GET", "/ready") == (200, {"ready": True})
    await call(gateway, "a")
    engine.status = EngineStatus(EngineState.RESTARTING, "exited with status 137", restarts=1)
    status, reply = await gateway.json("GET", "/ready")
    assert (status, reply["error"]["code"]) == (503, "engine_unavailable")
    assert "exited with status 137" in reply["error"]["message"]
    status, reply = await gateway.json("GET", "/health")
    assert (status, reply["status"], reply["programs"], reply["counters"]["calls"]) == (200, "ok", 1, 1)
    assert reply["engines"]["e0"] == {
        "state": "restarting",
        "detail": "exited with status 137",
        "pid": None,
        "restarts": 1,
        "models": [],
        "limits": None,
        "bounds": None,
        "calls": 0,
        "draining": False,
    }


@pytest.mark.parametrize("path", [PROGRAMS, "/health", "/v1/models"])
async def test_a_name_that_is_not_ours_is_refused(gateway: Gateway, path: str) -> None:
    """A web page whose name was rebound to loopback gets nothing."""
    status, reply = await gateway.json("GET", path, headers={"Host": "evil.example:8700"})
    assert (status, reply["error"]["code"]) == (403, "host_refused")
    assert "AUTELLIX_ALLOWED_HOSTS" in reply["error"]["message"]


async def test_further_names_can_be_allowed(engine: FakeEngine) -> None:
    """As a proxy in front of the gateway needs."""
    async with running_gateway(engine, allowed_hosts="llm.example, other.example") as gateway:
        assert (await gateway.json("GET", "/health", headers={"Host": "LLM.example:80"}))[0] == 200


async def test_web_pages_of_other_origins_are_refused(gateway: Gateway) -> None:
    """Under /v1 too: the engine itself would answer every page. And so are posts a page can make unasked."""
    headers = {"Origin": "http://evil.example"}
    assert (await gateway.json("GET", PROGRAMS, headers=headers))[0] == 403
    assert (await gateway.json("POST", PROGRAMS, json={}, headers=headers))[0] == 403
    assert (await gateway.json("GET", PROGRAMS, headers={"Origin": gateway.url}))[0] == 200
    assert (await gateway.json("POST", "/v1/completions", json={}, headers=headers))[0] == 403
    assert (await gateway.json("POST", PROGRAMS, data="{}", headers={"Content-Type": "text/plain"}))[0] == 415


def test_host_names() -> None:
    """Loopback names, addresses in digits, and what was allowed."""
    guard = HostGuard(["gpu-1", "GPU-2"])
    for host in (
        "localhost",
        "LOCALHOST:1",
        "a.localhost",
        "127.0.0.1:8700",
        "[::1]:8700",
        "10.1.2.3",
        "gpu-1",
        "gpu-2",
    ):
        assert guard.allows(host), host
    for host in ("", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "gpu-12"):
        assert not guard.allows(host), host


def test_origins() -> None:
    """No page at all, a page of this very host and port, or one that the operator named."""
    guard = OriginGuard(["https://app.example/"])
    for origin in (None, "http://localhost:8700", "https://APP.example"):
        assert guard.allows(origin, "localhost:8700"), origin
    for origin in ("null", "http://localhost:8701", "http://evil.example", "http://app.example", "http://[", ""):
        assert not guard.allows(origin, "localhost:8700"), origin


def test_loopback_addresses() -> None:
    """Anything else deserves a warning."""
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.3.0.1", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "gpu-1")))
