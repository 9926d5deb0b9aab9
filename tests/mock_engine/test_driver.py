"""The driver on a clock that jumps: tokens when the model says so, and calls that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mock_world import MODEL, JumpClock, ask, simulation

from autellix_sdk.errors import UsageError
from autellix_server.mock_engine.engine import MockEngine, RunningCall
from autellix_server.simulator.engine import SimEngine
from autellix_server.simulator.run import SimulationSettings


@asynccontextmanager
async def running_engine(
    options: SimulationSettings | None = None, pace_s: float = 0.0
) -> AsyncIterator[tuple[MockEngine, JumpClock]]:
    """Run an engine in jumping time; `pace_s` is how long its driver does not look at streams."""
    clock = JumpClock()
    engine = MockEngine(options or simulation(), clock, speed=1.0, name="e0")
    engine._driver._pace_s = pace_s
    life = asyncio.create_task(engine.run())
    async with clock.running():
        yield engine, clock
    if life.done():
        life.result()
    life.cancel()


def inner(engine: MockEngine) -> SimEngine:
    """Return the simulated engine."""
    return engine._driver.engine


async def finish(engine: MockEngine, call: RunningCall) -> float:
    """Wait for the end of a call that is not a stream, and return when it was."""
    await call.live.more()
    engine.finish(call)
    return engine.clock.read().virtual_s


async def emission(engine: MockEngine, call: RunningCall) -> list[tuple[float, int]]:
    """Return at what times a stream had how many tokens."""
    seen = []
    while not seen or seen[-1][1] < len(call.words):
        tokens = await call.live.more()
        seen.append((engine.clock.read().virtual_s, tokens))
    engine.finish(call)
    return seen


async def test_each_token_comes_at_the_end_of_its_step() -> None:
    """One a second, the first by the step that computes the prompt."""
    async with running_engine() as (engine, _):
        call = engine.arrive({}, ask(tokens=4, stream=True), 0.0)
        assert await emission(engine, call) == [(1.0, 1), (2.0, 2), (3.0, 3), (4.0, 4)]


async def test_a_stream_is_not_looked_at_too_often() -> None:
    """Several tokens at once, none later than the pace, the last at its own time."""
    async with running_engine(pace_s=2.5) as (engine, _):
        call = engine.arrive({}, ask(tokens=7, stream=True), 0.0)
        assert await emission(engine, call) == [(1.0, 1), (3.5, 3), (6.0, 6), (7.0, 7)]


async def test_who_does_not_stream_has_everything_at_the_end() -> None:
    """Also beside a stream."""
    async with running_engine() as (engine, _):
        stream = engine.arrive({}, ask([1], tokens=3, stream=True), 0.0)
        whole = engine.arrive({}, ask([2], tokens=5), 0.0)
        assert (await asyncio.gather(finish(engine, whole), emission(engine, stream)))[0] == 5.0
        assert whole.live.call.generated == 5


def few_slots(slots: int, spares: int) -> SimulationSettings:
    """Return settings of an engine with so many places."""
    options = simulation(model=replace(MODEL, slots=slots))
    return replace(options, planner=replace(options.planner, spares=spares))


@pytest.mark.parametrize("slots", [1, 2])
async def test_a_call_that_leaves_frees_its_slot_and_its_memory(slots: int) -> None:
    """Who waits begins after the step under way, whether others run on or not."""
    async with running_engine(few_slots(slots, spares=0)) as (engine, clock):
        long, *rest = (engine.arrive({}, ask([number], tokens=50), 0.0) for number in range(slots))
        await clock.sleep_until(2.5)
        short = engine.arrive({}, ask([9], tokens=3), 2.5)
        await clock.sleep_until(4.5)
        engine.leave(long)
        assert await finish(engine, short) == 8.0
        for call in rest:
            await finish(engine, call)
        assert (engine.running, engine.waiting, engine.pinned_tokens) == (0, 0, 0)
        assert engine.counters.aborted == 1


async def test_a_spare_takes_the_slot_of_a_call_that_leaves() -> None:
    """Its prompt is computed; it decodes from the next step on."""
    async with running_engine(few_slots(1, spares=1)) as (engine, clock):
        long, spare = (engine.arrive({}, ask([number], tokens=50), 0.0) for number in range(2))
        await clock.sleep_until(4.5)
        engine.leave(long)
        assert await finish(engine, spare) == 54.0


async def test_a_call_that_leaves_within_its_last_step_is_done() -> None:
    """The engine completes it, and its client is not told."""
    async with running_engine() as (engine, clock):
        call = engine.arrive({}, ask(tokens=4), 0.0)
        await clock.sleep_until(3.5)
        engine.leave(call)
        await clock.sleep_until(5.0)
        assert call.live.call.generated == 4
        assert (engine.running, engine.pinned_tokens) == (0, 0)


async def test_a_call_that_leaves_the_queue_never_runs() -> None:
    """And nobody is disturbed."""
    async with running_engine() as (engine, clock):
        running = [engine.arrive({}, ask([number], tokens=10), 0.0) for number in (1, 2, 3)]
        late = engine.arrive({}, ask([4], tokens=10), 0.0)
        await clock.sleep_until(1.5)
        engine.leave(late)
        ends = await asyncio.gather(*(finish(engine, call) for call in running[:2]))
        assert ends == [10.0, 10.0]
        assert late.live.call.generated == 0
        engine.leave(running[2])


async def test_the_last_call_that_leaves_lets_the_engine_rest() -> None:
    """Nothing is due any more, and the next call begins at once."""
    async with running_engine() as (engine, clock):
        call = engine.arrive({}, ask(tokens=100), 0.0)
        await clock.sleep_until(3.5)
        engine.leave(call)
        engine.leave(call)
        await clock.sleep_until(20.0)
        assert engine.running == 0
        assert await finish(engine, engine.arrive({}, ask(tokens=2), 20.0)) == 22.0


async def test_too_large_a_call_is_refused_with_the_numbers() -> None:
    """It would wait for ever."""
    async with running_engine() as (engine, _):
        with pytest.raises(UsageError, match="3 prompt tokens and 99999 of the answer are more than the 9976"):
            engine.arrive({}, ask(tokens=99_999), 0.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_whoever_leaves_and_whenever_the_others_finish_and_nothing_is_held(seed: int) -> None:
    """Calls come and leave at random, under pressure of slots, memory and host; at the end the pool is free."""
    asyncio.run(_leave_at_random(Random(seed)))


async def _leave_at_random(random: Random) -> None:
    model = replace(
        MODEL,
        slots=random.randint(1, 4),
        kv_tokens=300,
        chunk_tokens=random.choice([8, 1000]),
        host_tokens=random.choice([0, 50, 1000]),
        link_bytes_per_s=random.choice([20.0, 1e9]),
    )
    options = simulation(random.choice(["fcfs", "mlfq", "plas"]), model, first_bound_s=4.0)
    async with running_engine(options) as (engine, clock):

        async def client(number: int) -> bool:
            await clock.sleep_until(random.uniform(0, 60))
            headers = {"x-autellix-program": f"p{number % 4}"}
            prompt = list(range(random.randint(1, 100)))
            call = engine.arrive(headers, ask(prompt, tokens=random.randint(1, 60)), clock.now_s())
            leaves = random.random() < 0.5
            if leaves:
                await clock.sleep_until(clock.now_s() + random.uniform(0, 100))
                engine.leave(call)
            else:
                await finish(engine, call)
            return not leaves

        stay = sum(await asyncio.gather(*map(client, range(12))))
        await clock.sleep_until(clock.now_s() + 5.0)
        pool = inner(engine).kv
        assert engine.counters.completed == stay
        assert (pool.pinned, pool.shared, pool.parked, pool.host.calls_tokens) == (0, 0, 0, 0)
        assert (engine.running, engine.waiting, engine.programs <= 4) == (0, 0, True)
        assert (inner(engine)._waiting, inner(engine)._waiting_tokens) == (0, 0)
