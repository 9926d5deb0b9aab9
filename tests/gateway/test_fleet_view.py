"""What the gateway shows of the engine: its metrics, and the bounds of its levels."""

from __future__ import annotations

from aiohttp import web
from fake_engine import CHAT, FakeEngine, Gateway, Seen, identity, running_engine, running_gateway
from script_launch import until

BOUNDS = {"first_bound_s": 0.001, "bounds_s": [0.001, 0.002], "median_service_s": 0.001, "calibrated": True}
METRICS = b"# TYPE autellix_preemptions_total counter\nautellix_preemptions_total 3.0\n"
TEXT = "text/plain; version=0.0.4; charset=utf-8"


async def test_levels_are_those_of_the_engines_bounds() -> None:
    """A program of 5 ms is in the best level of the gateway's own bounds, and in the fourth of the engine's."""
    async with running_engine() as engine:
        engine.shown = {"internal_states": [{"autellix": {"bounds": BOUNDS}}]}
        async with running_gateway(engine, policy="plas") as gateway:
            await gateway.json("POST", "/v1/chat/completions", json=CHAT, headers=identity("p1"))
            await until(lambda: gateway.ledger.table.policy.promotion_s == 0.001)
            assert (await gateway.json("GET", "/autellix/v1/programs/p1"))[1]["level"] == 3
            assert (await gateway.json("GET", "/health"))[1]["engines"]["e0"]["bounds"] == BOUNDS


async def test_an_engine_that_shows_no_bounds_has_none() -> None:
    """Under a policy without a planner, and where something else answers; the gateway's levels stay."""
    for shown in ({"internal_states": [{"autellix": {"finished": 3}}]}, {"internal_states": None}):
        async with running_engine() as engine:
            engine.shown = shown
            async with running_gateway(engine) as gateway:
                await until(lambda engine=engine: engine.looks > 0)  # type: ignore[misc]
                assert (await gateway.json("GET", "/health"))[1]["engines"]["e0"]["bounds"] is None
                assert gateway.ledger.table.policy.promotion_s == 1.0


async def test_an_engine_that_is_not_ours_is_not_asked() -> None:
    """It has no levels of ours."""
    async with running_engine(secret=None) as engine:
        engine.shown = {"internal_states": [{"autellix": {"bounds": BOUNDS}}]}
        async with running_gateway(engine) as gateway:
            await gateway.json("GET", "/v1/models")
            assert (engine.looks, (await gateway.json("GET", "/health"))[1]["engines"]["e0"]["bounds"]) == (0, None)


async def test_metrics_are_the_gateways_and_the_engines(gateway: Gateway, engine: FakeEngine) -> None:
    """Those of an engine with its name; one that shows none takes nothing from the rest."""

    async def show(request: web.Request, seen: Seen) -> web.Response:
        if seen.path != "/metrics":
            return web.json_response({})
        return web.Response(body=METRICS, headers={"Content-Type": TEXT})

    await gateway.json("POST", "/v1/chat/completions", json=CHAT, headers=identity())
    for behave, shown in ((show, True), (engine.die_at_once, False)):
        engine.behave = behave
        async with gateway.client.get(gateway.url + "/metrics") as reply:
            lines = (await reply.read()).decode().splitlines()
        assert reply.status == 200
        assert ('autellix_preemptions_total{engine="e0"} 3.0' in lines) is shown
        assert [line for line in lines if line.startswith("autellix_gateway_calls_total{")] == [
            'autellix_gateway_calls_total{engine="e0",model="",outcome="ok",path="/v1/chat/completions"} 1.0'
        ]
