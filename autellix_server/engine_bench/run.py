"""All rounds: the arms in turn, one server at a time, and what was found when it is interrupted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from autellix_server.engine.progress import Progress
from autellix_server.engine_bench.arms import Arm
from autellix_server.engine_bench.bandwidth import Bandwidth
from autellix_server.engine_bench.measure import Load, measure_speeds
from autellix_server.engine_bench.results import Results, Turn
from autellix_server.engine_bench.servers import RunningArm, running_arm

ArmStarter = Callable[[Arm, Path, Callable[[str], None]], AbstractAsyncContextManager[RunningArm]]
BandwidthMeter = Callable[[], Awaitable[Bandwidth]]


@dataclass(frozen=True, slots=True)
class EngineBench:
    """A comparison; use it once.

    Attributes:
        arms: who takes part, with names of their own.
        load: what each is asked in a turn.
        rounds: how often each has its turn, 1 or more.
        logs: folder for what servers print.
        bandwidth: measures that of this machine's memory; `None` leaves the floor out.
        progress: told what happens.
        results: what was found so far.
        start: starts an arm.
    """

    arms: Sequence[Arm]
    load: Load
    rounds: int
    logs: Path
    bandwidth: BandwidthMeter | None
    progress: Progress
    results: Results
    start: ArmStarter = running_arm

    async def run(self) -> bool:
        """Run all rounds; when cancelled, stop what runs, keep the turns that were complete, and return False.

        Raises:
            UsageError: a server has too few slots.
            EngineFailure: a server does not start, or does not answer as it should.
        """
        try:
            for number in range(self.rounds):
                if self.bandwidth is not None:
                    self.progress.stage("measuring the memory bandwidth")
                    self.results.bandwidths.append(await self.bandwidth())
                # Whoever was first in one round is last in the next: what drifts falls on all alike.
                for arm in self.arms if number % 2 == 0 else reversed(self.arms):
                    await self._turn(number, arm)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            return False
        return True

    async def _turn(self, number: int, arm: Arm) -> None:
        where = f"round {number + 1} of {self.rounds}: {arm.name}"
        self.progress.stage(f"{where}, starting")
        async with self.start(arm, self.logs / f"bench-{arm.name}.log", self.progress.say) as running:
            self.results.facts[arm.name] = running.facts
            self.progress.stage(f"{where}, measuring", self.load.repeats * len(self.load.probes))
            began_s, others_s = time.monotonic(), running.others_s()
            speeds = await measure_speeds(running.client, self.load, f"round {number}", self.progress)
            others_busy = (running.others_s() - others_s) / (time.monotonic() - began_s)
            turn = Turn(
                arm=arm.name,
                number=number,
                start_s=running.start_s,
                tokens_per_s=speeds.tokens_per_s,
                memory=running.memory(),
                client_busy=speeds.client_busy,
                others_busy=others_busy,
            )
        self.results.turns.append(turn)
        self.progress.say("  " + ", ".join(f"{what} {value:.3g}" for what, value in turn.values.items()))
