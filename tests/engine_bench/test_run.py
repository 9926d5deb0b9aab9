"""Rounds: whose turn it is, what is kept of it, and what an interruption leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from paced_client import SILENT, PacedClient

from autellix_server.engine_bench.arms import Arm, command_arm
from autellix_server.engine_bench.bandwidth import Bandwidth
from autellix_server.engine_bench.measure import Load
from autellix_server.engine_bench.results import Results
from autellix_server.engine_bench.run import EngineBench
from autellix_server.engine_bench.usage import Memory
from autellix_server.errors import EngineFailure

ARMS = [command_arm(f"{name}=serve {{port}}", "/model") for name in ("a", "b", "c")]
LOAD = Load((1,), tokens=8, context=8, prefill=8, repeats=1)


@dataclass
class FakeArm:
    """An arm that runs; satisfies what is asked of `servers.RunningArm`."""

    client: Any
    start_s: float = 3.0
    facts: dict[str, Any] = field(default_factory=lambda: {"model": "tiny"})

    def memory(self) -> Memory:
        """Return that of one process."""
        return Memory(1, 2, 1, 3)

    def others_s(self) -> float:
        """Return that nobody else works."""
        return 0.0


@dataclass
class Stage:
    """Where arms have their turns; only one may be on it.

    Attributes:
        interrupted_at: arm whose turn never ends.
        failing: arm that does not start.
    """

    interrupted_at: str = ""
    failing: str = ""
    events: list[str] = field(default_factory=list)
    running: str | None = None

    @asynccontextmanager
    async def start(self, arm: Arm, log: Path, say: Callable[[str], None]) -> AsyncIterator[FakeArm]:
        """Let an arm have its turn."""
        assert self.running is None
        if arm.name == self.failing:
            raise EngineFailure("a sad end")
        self.running = arm.name
        self.events.append(arm.name)
        try:
            if arm.name == self.interrupted_at:
                await asyncio.Event().wait()
            yield FakeArm(PacedClient())
        finally:
            self.running = None

    async def bandwidth(self) -> Bandwidth:
        """Measure while nobody is there."""
        assert self.running is None
        self.events.append("bandwidth")
        return Bandwidth(1e9, "sum", 2)

    def bench(self, rounds: int, folder: Path) -> EngineBench:
        """Return a comparison of all arms."""
        start: Any = self.start
        assert isinstance(start(ARMS[0], folder, print), AbstractAsyncContextManager)
        return EngineBench(ARMS, LOAD, rounds, folder, self.bandwidth, SILENT, Results({}), start)


async def test_arms_take_turns_and_whoever_was_first_is_last_next(tmp_path: Path) -> None:
    """One at a time, and the bandwidth while none runs."""
    stage = Stage()
    bench = stage.bench(3, tmp_path)
    assert await bench.run()
    assert stage.events == [*("bandwidth", "a", "b", "c"), *("bandwidth", "c", "b", "a"), *("bandwidth", "a", "b", "c")]
    assert [(turn.arm, turn.number) for turn in bench.results.turns][3:6] == [("c", 1), ("b", 1), ("a", 1)]
    speeds = {"decode 1": pytest.approx(10), "prefill 8": pytest.approx(16)}
    costs = {"start s": 3.0, "RSS GB": 2e-9, "PSS GB": 1e-9, "peak RSS GB": 3e-9}
    assert bench.results.turns[0].values == speeds | costs
    assert bench.results.facts == {name: {"model": "tiny"} for name in "abc"}


async def test_an_interruption_keeps_whole_turns_and_leaves_nobody_on_stage(tmp_path: Path) -> None:
    """And the task can go on, to print them."""
    stage = Stage(interrupted_at="b")
    bench = stage.bench(1, tmp_path)
    run = asyncio.create_task(bench.run())
    while stage.running != "b":
        await asyncio.sleep(0)
    run.cancel()
    assert await run is False
    assert [turn.arm for turn in bench.results.turns] == ["a"]
    assert stage.running is None


async def test_an_arm_that_does_not_start_ends_the_comparison(tmp_path: Path) -> None:
    """Half a comparison would pass for a whole one."""
    stage = Stage(failing="b")
    with pytest.raises(EngineFailure, match="a sad end"):
        await stage.bench(1, tmp_path).run()
    assert stage.events == ["bandwidth", "a"]
