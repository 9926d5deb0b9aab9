"""The processes of a comparison, ours among them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import aiohttp

from autellix_server.engine.guardian import live_processes
from autellix_server.gateway_bench.arms import OwnArm, engine_launch
from autellix_server.gateway_bench.load import KINDS, Load, answers, offer_calls
from autellix_server.gateway_bench.servers import Stage, running

LOAD = Load(rate=20, prompt_bytes=10)


async def test_ours_believes_the_bills_of_the_engine_and_charges_them(tmp_path: Path) -> None:
    """So that all that a gateway does for a call is in the figures; and its work is seen from outside."""
    complaint = partial(answers, load=LOAD)
    async with running(engine_launch(), tmp_path / "engine.log", complaint) as engine:
        own = OwnArm().launch(engine.url, tmp_path)
        async with running(own, tmp_path / "ours.log", complaint) as ours, aiohttp.ClientSession(ours.url) as session:
            for kind in KINDS:
                assert not (await offer_calls(ours.url, LOAD, kind, 0.5, "salt")).failures
            async with session.get("/autellix/v1/programs/p0") as reply:
                bill = (await reply.json())["bill"]
            look = Stage(engine, ours).look()
    assert bill["calls"] == 3  # the one that asked whether it was ready, and the first of each kind
    assert bill["service_us"] == 5 * 3
    assert look.arm_s > 0
    assert {engine.pid, ours.pid}.isdisjoint(entry.pid for entry in live_processes())
