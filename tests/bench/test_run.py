"""A whole comparison against servers over HTTP: turns, salts, and what is left when it is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from bench_world import call, program
from fake_openai_server import FakeOpenAI, running

from autellix_server.bench.client import ClientSettings
from autellix_server.bench.plan import Arm, Cut, Pace
from autellix_server.bench.run import Bench, Plan
from autellix_server.errors import ServerError
from tests.engine.fake_installer import Notes

CHAIN = program(call("0", prompt=30), call("1", "0", prompt=44, shared=34), name="chain")


def bench(*arms: Arm, repeats: int = 1, programs: int = 2, alone: int = 0, rate: float = 500.0) -> Bench:
    """Return a comparison that takes a moment."""
    named = [program(*CHAIN.calls, name=f"chain{number}") for number in range(programs)]
    return Bench(Plan(arms, named, [Pace(rate)], repeats, alone), ClientSettings(), Notes(), "n0")


async def test_all_rounds_run_over_the_same_programs_with_other_words() -> None:
    """No round finds the prompts of another in a cache; inside a round a later call repeats the earlier one."""
    async with running(FakeOpenAI(ours=True)) as fake:
        whole = bench(Arm("a", fake.url), Arm("b", fake.url + "/v1"), repeats=2, alone=1)
        assert await whole.run()
    assert [one.round.arm.name for one in whole.rounds] == ["a", "b", "b", "a", "a", "b"]
    assert [len(one.programs) for one in whole.rounds] == [1, 1, 2, 2, 2, 2]
    assert all(program.failure is None for one in whole.rounds for program in one.programs)
    calls = [body["prompt"] for body in fake.bodies if body["max_tokens"] == 4 and body["prompt"].count(" ") >= 30]
    first = [prompt for prompt in calls if prompt.count(" ") == 30]
    assert len(first) == len(set(first)) == 10
    assert all(any(later.startswith(earlier + " word") for earlier in first) for later in calls if later not in first)
    assert fake.flushed == 6
    assert [end["id"] for end in fake.ended if end["id"].startswith("chain0")] == [
        f"chain0.n0{number}.0" for number in range(6)
    ]


async def test_progress_tells_rounds_and_programs() -> None:
    """Which round, how many, and how it went."""
    async with running(FakeOpenAI()) as fake:
        whole = bench(Arm("a", fake.url))
        await whole.run()
    told = whole.progress
    assert isinstance(told, Notes)
    assert told.stages == ["round 1 of 1: a at 500 programs/s"]
    assert told.steps[-1] == "2 arrived, 2 ended, 0 failed"
    assert "2 programs in 0 s, 0 failed" in told.said[0]


async def test_failures_do_not_end_a_comparison() -> None:
    """They are what it finds."""
    async with running(FakeOpenAI(healthy_calls=3)) as fake:
        whole = bench(Arm("a", fake.url), programs=3)
        assert await whole.run()
    failures = {program.failure for program in whole.rounds[0].programs}
    assert failures - {None} == {"status 500: out of memory"}
    assert len(whole.rounds[0].programs) == 3


async def test_servers_of_ours_run_one_at_a_time_and_serve_two_rounds_in_a_row() -> None:
    """A B, B A: two arms never share the machine."""
    events: list[str] = []

    async with running(FakeOpenAI()) as fake:

        @asynccontextmanager
        async def start(arguments: Sequence[str], say: Callable[[str], None]) -> AsyncIterator[str]:
            events.append(f"start {arguments[1]}")
            say("autellix: engine starting")
            yield fake.url
            events.append(f"stop {arguments[1]}")

        arms = [Arm(name, serve_arguments=("--policy", name)) for name in ("fcfs", "plas")]
        whole = bench(*arms, repeats=2)
        whole.start_server = start
        assert await whole.run()
    assert events == ["start fcfs", "stop fcfs", "start plas", "stop plas", "start fcfs", "stop fcfs"]
    assert len(whole.rounds) == 4
    assert isinstance(whole.progress, Notes)
    assert whole.progress.said[0] == "engine starting"


async def test_interrupted_it_keeps_what_was_measured() -> None:
    """Calls under way are dropped, and the caller is told that it is not whole."""
    async with running(FakeOpenAI()) as fake:
        whole = bench(Arm("a", fake.url), Arm("b", fake.url))
        work = asyncio.create_task(whole.run())
        while not whole.rounds:
            await asyncio.sleep(0)
        fake.hold = asyncio.Event()
        while not fake.waiting:
            await asyncio.sleep(0)
        work.cancel()
        assert await work is False
        fake.hold.set()
    assert whole.rounds[0].complete
    assert not whole.rounds[1:] or not whole.rounds[1].complete


async def test_an_arm_that_is_not_there_is_named() -> None:
    """One of several URLs may be wrong; what was measured before stays."""
    async with running(FakeOpenAI()) as fake:
        whole = bench(Arm("new", fake.url), Arm("old", "http://127.0.0.1:9"))
        with pytest.raises(ServerError, match=r"^old: the server cannot be reached"):
            await whole.run()
    assert len(whole.rounds) == 1


def test_the_unloaded_round_is_not_cut() -> None:
    """Warm-up and cool-down are for arrivals, of which it has none."""
    plan = Plan([Arm("a")], [CHAIN] * 5, [Pace(1.0)], alone=3, warmup=Cut(seconds=60))
    programs, counted = plan.load(plan.rounds[0].pace)
    assert (len(programs), counted) == (3, {0, 1, 2})
