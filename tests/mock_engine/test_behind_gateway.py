"""The gateway takes the mock engine for the real one: identity, stamps and bills, and the policy at work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from fake_engine import SECRET, Gateway, identity, ready, running_gateway
from mock_world import MODEL, JumpClock, Mock, running_mock, simulation, until

from autellix_sdk.bill import CallBill, decode_bill
from autellix_server.engine.supervisor import EngineStatus
from autellix_server.mock_engine.clock import Clock
from autellix_server.simulator.run import SimulationSettings

PATH = "/v1/chat/completions"


@dataclass
class Stack:
    """A gateway and the mock engine behind it."""

    gateway: Gateway
    mock: Mock

    async def call(self, program: str, call: str, tokens: int, **change: Any) -> CallBill:
        """Make a call through the gateway and return its bill."""
        body = {"messages": [{"role": "user", "content": "go"}], "max_tokens": tokens, "ignore_eos": True, **change}
        headers = identity(program, call)
        async with self.gateway.client.post(self.gateway.url + PATH, json=body, headers=headers) as reply:
            content = await reply.read()
            if not change.get("stream"):
                return decode_bill(reply.headers["x-autellix-bill"])
        comment = next(line for line in content.splitlines() if line.startswith(b": autellix "))
        return decode_bill(comment.removeprefix(b": autellix "))


@dataclass(frozen=True)
class Address:
    """The mock engine as the gateway's supervisor would describe it."""

    status: EngineStatus
    name: str = "e0"


@asynccontextmanager
async def running_stack(
    settings: SimulationSettings, clock: Clock | None = None, secret: bytes | None = SECRET
) -> AsyncIterator[Stack]:
    """Run both."""
    async with (
        running_mock(settings, clock, secret=secret, engine_name="e0") as mock,
        running_gateway(Address(ready(mock.url))) as gateway,
    ):
        yield Stack(gateway, mock)


async def test_the_ledger_takes_its_bills() -> None:
    """Plain and streamed calls are charged to their program, and nothing is distrusted."""
    async with running_stack(simulation("plas")) as stack:
        bills = [await stack.call("p1", "0.0", 10), await stack.call("p1", "0.1", 20, stream=True)]
        for bill, tokens in zip(bills, (10, 20), strict=True):
            time = bill.time
            assert (
                time.wall_us == time.total_queued_us + time.prefill_us + time.decode_us + time.swap_us + time.other_us
            )
            assert (bill.output_tokens, bill.engine) == (tokens, "e0")
        counters = stack.gateway.ledger.counters
        assert (counters.distrusted_bills, counters.uncharged, counters.calls) == (0, 0, 2)
        row = stack.gateway.program("p1")
        assert (row.completed, row.output_tokens) == (2, 30)
        assert row.service_us == sum(bill.service_us for bill in bills)


async def levels_after_much_work(secret: bytes | None) -> tuple[int, int]:
    """Return the start level of a program after forty seconds of service, as gateway and engine see it."""
    settings = simulation("plas", first_bound_s=1.0)
    async with running_stack(settings, secret=secret) as stack:
        await stack.call("p1", "0.0", 40)
        # The engine's own table forgets; the gateway's does not.
        table = stack.mock.server.engine._accounts.table
        table.end(stack.gateway.program("p1").id, 0.0)
        table._tombstones.clear()
        bill = await stack.call("p1", "0.1", 1)
        return bill.level[0], settings.levels.level_of(40.0)


async def test_a_stamp_with_our_secret_is_believed() -> None:
    """The gateway's account decides the level; without the secret it is the engine's own table."""
    believed, expected = await levels_after_much_work(SECRET)
    assert believed == expected
    assert await levels_after_much_work(b"another secret!!") == (0, expected)


async def order_of_ends(policy: str) -> list[str]:
    """Return the order in which two programs that have worked much and a fresh one end on one slot."""
    model = replace(MODEL, slots=1)
    settings = simulation(policy, model, first_bound_s=5.0)
    settings = replace(settings, planner=replace(settings.planner, spares=0))
    clock = JumpClock()
    async with running_stack(settings, clock) as stack:
        engine = stack.mock.server.engine
        async with clock.running():
            for heavy in ("heavy1", "heavy2"):
                await stack.call(heavy, "0.0", 50)
        ended: list[str] = []

        async def call(program: str) -> None:
            await stack.call(program, "0.9", 30)
            ended.append(program)

        calls = []
        for number, program in enumerate(("heavy1", "heavy2", "fresh"), 1):
            calls.append(asyncio.create_task(call(program)))
            await until(lambda number=number: engine.waiting + engine.running == number)  # type: ignore[misc]
        async with clock.running():
            await asyncio.gather(*calls)
        return ended


async def test_a_fresh_program_overtakes_heavy_ones_under_plas_and_not_under_fcfs() -> None:
    """The policy is the engine's, and the gateway's account feeds it."""
    assert await order_of_ends("plas") == ["fresh", "heavy1", "heavy2"]
    assert await order_of_ends("fcfs") == ["heavy1", "heavy2", "fresh"]


async def test_faults_reach_the_gateway_as_an_engine_that_fails() -> None:
    """A connection that closes is a 503; a stream that is cut ends with an error event; a refusal is passed on."""
    async with running_stack(simulation()) as stack:

        async def status(order: Mapping[str, Any], **body: Any) -> tuple[int, bytes]:
            await stack.mock.order(**order)
            content = {"messages": [{"role": "user", "content": "go"}], "max_tokens": 9, "ignore_eos": True, **body}
            async with stack.gateway.client.post(stack.gateway.url + PATH, json=content) as reply:
                return reply.status, await reply.read()

        assert (await status({"kind": "close", "count": 2}))[0] == 503
        assert (await status({"kind": "refuse", "status": 429}))[0] == 429
        cut, stream = await status({"kind": "cut", "tokens": 2}, stream=True)
        assert cut == 200
        assert b"event: error" in stream
        assert stack.gateway.ledger.counters.engine_failures == 2
