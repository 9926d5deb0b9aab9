"""The mock engine does in real time what the simulator does in virtual time."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import replace
from itertools import islice
from random import Random

import pytest
from mock_world import JumpClock, ask, simulation

from autellix_server.mock_engine.engine import MockEngine
from autellix_server.mock_engine.tokens import text_tokens
from autellix_server.simulator.model import PRESETS
from autellix_server.simulator.programs import Arrival, poisson_arrivals
from autellix_server.simulator.run import Simulation, SimulationSettings
from autellix_server.traces.model import TraceProgram
from autellix_server.traces.prompts import PromptBook
from autellix_server.traces.workloads.registry import generate

IDS = range(1000, 1_000_000)
MODEL = replace(PRESETS["a100-8b"], slots=2, kv_tokens=30_000)


def with_gaps(program: TraceProgram) -> TraceProgram:
    """Return the program with a second between its calls: without, the simulator lets a call arrive in no time."""
    return replace(program, calls=tuple(replace(call, tool_seconds=1.0) for call in program.calls))


async def replay(clock: JumpClock, engine: MockEngine, number: int, arrival: Arrival) -> tuple[str, float, int]:
    """Play one program of a single chain; return its name, its end, and the tokens that were cached."""
    program = arrival.trace
    assert isinstance(program, TraceProgram)
    book, cached = PromptBook(program), 0
    answers: dict[str, array[int]] = {}
    ready_s = arrival.at_s
    for call in program.calls:
        await clock.sleep_until(ready_s)
        headers = {
            "x-autellix-program": f"{program.program_id}.{number}",
            "x-autellix-call": f"v1;s=s;t=0;c={call.id};p={','.join(call.parents)}",
        }
        prompt = book.token_ids(call.id, IDS, answers)
        running = engine.arrive(headers, ask(prompt, call.output_tokens, stream=number % 2 == 0), clock.now_s())
        while await running.live.more() < len(running.words):
            pass
        answers[call.id] = array("I", text_tokens(" ".join(running.words)))
        cached += running.cached_tokens
        engine.finish(running)
        ready_s = clock.now_s() + (call.tool_seconds or 0.0)
    return f"{program.program_id}.{number}", clock.now_s(), cached


async def play(options: SimulationSettings, arrivals: list[Arrival]) -> dict[str, tuple[float, int]]:
    """Return the end and the cached tokens of every program."""
    clock = JumpClock()
    engine = MockEngine(options, clock, speed=1.0, name="e0")
    life = asyncio.create_task(engine.run())
    async with clock.running():
        done = await asyncio.gather(*(replay(clock, engine, n, arrival) for n, arrival in enumerate(arrivals)))
    life.cancel()
    return {name: (end_s, cached) for name, end_s, cached in done}


@pytest.mark.parametrize("policy", ["fcfs", "plas", "mlfq"])
async def test_a_trace_takes_as_long_as_in_the_simulator(policy: str) -> None:
    """Every program ends when it ends in the simulator, with the same cache hits, preemptions included."""
    programs = [with_gaps(program) for program in islice(generate("chat", 5), 8)]
    arrivals = poisson_arrivals(programs, 4.0, Random(1))
    options = simulation(policy, MODEL)
    played = await play(options, arrivals)
    simulated = Simulation(options, arrivals).run()
    for program in simulated:
        end_s, cached = played[program.id]
        assert end_s == pytest.approx(program.ended_s, abs=1e-6)
        assert cached == program.counts.cached_tokens
    # They were in each other's way, so that it mattered who went first.
    assert sum(program.times.queued_s for program in simulated) > 100
    assert (sum(program.counts.preemptions for program in simulated) > 0) == (policy != "fcfs")
