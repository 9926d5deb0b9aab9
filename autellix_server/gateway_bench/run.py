"""All rounds: the arms in turn, one gateway at a time, and what was found when it is interrupted."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path

from autellix_server.engine.progress import Progress
from autellix_server.gateway_bench.arms import DIRECT, AnyArm, engine_launch
from autellix_server.gateway_bench.load import (
    KINDS,
    OPENING_S,
    CallsFound,
    Kind,
    Load,
    answers,
    offer_calls,
    offer_streams,
)
from autellix_server.gateway_bench.results import Busy, Held, Latency, Pair, Results, Rung
from autellix_server.gateway_bench.servers import Spent, Stage, running

_WARM_UP_S = 1.0
_HELD_S = 1.0
_ATTEMPTS = 2
"""A rung that was not carried is tried once more before the ladder ends: a machine is never quite still."""


@dataclass(frozen=True, slots=True)
class GatewayBench:
    """A comparison; use it once, on a `precise.precise_loop`.

    Attributes:
        arms: who takes part, with names of their own.
        load: what each is given in a turn.
        rounds: how often each has its turn, 1 or more.
        logs: folder for what servers print.
        progress: told what happens.
        results: what was found so far.
    """

    arms: Sequence[AnyArm]
    load: Load
    rounds: int
    logs: Path
    progress: Progress
    results: Results

    async def run(self) -> bool:
        """Run all rounds; when cancelled, stop what runs, keep what was complete, and return False.

        Raises:
            EngineFailure: a server does not start, or does not answer as it should.
        """
        try:
            for number in range(self.rounds):
                # Whoever was first in one round is last in the next: what drifts falls on all alike.
                turns = (None, *self.arms)
                for arm in turns if number % 2 == 0 else reversed(turns):
                    await self._turn(number, arm)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            return False
        return True

    async def _turn(self, number: int, arm: AnyArm | None) -> None:
        name = DIRECT if arm is None else arm.name
        if arm is None and not self.load.ladder:
            return  # direct calls are measured beside each arm
        where = f"round {number + 1} of {self.rounds}: {name}"
        self.progress.stage(f"{where}, starting")
        async with self._stage(arm) as stage:
            self.progress.stage(f"{where}, measuring")
            if arm is not None:
                await self._calls(number, name, stage)
                if self.load.held:
                    self.results.held.append(await self._held(number, name, stage))
            await self._ladder(number, name, stage)

    @asynccontextmanager
    async def _stage(self, arm: AnyArm | None) -> AsyncIterator[Stage]:
        complaint = partial(answers, load=self.load)
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autellix-gateway-bench-")))
            start = engine_launch()
            engine = await stack.enter_async_context(running(start, self._log(start.name), complaint))
            if arm is None:
                yield Stage(engine, None)
                return
            launch = arm.launch(engine.url, folder)
            yield Stage(engine, await stack.enter_async_context(running(launch, self._log(arm.name), complaint)))

    def _log(self, name: str) -> Path:
        return self.logs / f"gateway-bench-{name}.log"

    async def _calls(self, number: int, name: str, stage: Stage) -> None:
        """Send slices of calls in pairs: direct and through the gateway, then the other way round."""
        direct, load = Stage(stage.engine, None), self.load
        for kind in KINDS:
            for way in (direct, stage):
                await offer_calls(way.url, load, kind, _WARM_UP_S, "warm-up")
            for slot in range(load.slices):
                found: dict[Stage, tuple[CallsFound, Busy]] = {}
                for way in (direct, stage) if slot % 2 == 0 else (stage, direct):
                    self.progress.step(f"{kind} calls")
                    found[way] = await self._slice(way, kind, f"round {number} {kind} {slot}")
                through, busy = found[stage]
                pair = Pair(name, number, kind, _latency(found[direct][0]), _latency(through), busy)
                self.results.pairs.append(pair)
                self.progress.say(
                    f"  {kind}: adds {1e3 * pair.added_p50_s:.2f} ms to the median, {1e3 * pair.added_p99_s:.2f} to P99"
                )

    async def _slice(self, way: Stage, kind: Kind, salt: str) -> tuple[CallsFound, Busy]:
        before = way.look()
        found = await offer_calls(way.url, self.load, kind, self.load.seconds, salt)
        return found, _busy(way.look().since(before))

    async def _held(self, number: int, name: str, stage: Stage) -> Held:
        """Weigh the gateway before and while many slow streams are open."""
        assert stage.arm is not None
        before_bytes, load = stage.arm.rss_bytes(), self.load
        self.progress.step("memory")
        async with asyncio.TaskGroup() as group:
            group.create_task(offer_streams(stage.url, load, load.held, 1.0, 2 * OPENING_S + _HELD_S))
            await asyncio.sleep(OPENING_S + _HELD_S)
            open_bytes = stage.arm.rss_bytes()
        return Held(name, number, load.held, before_bytes, open_bytes)

    async def _ladder(self, number: int, name: str, stage: Stage) -> None:
        """Raise the load until events are lost or late."""
        for events_per_s in self.load.ladder:
            for _ in range(_ATTEMPTS):
                self.progress.step(f"{events_per_s} events/s")
                rung = await self._rung(number, name, stage, events_per_s)
                if rung.carried:
                    break
            self.results.rungs.append(rung)
            self.progress.say(
                f"  {events_per_s} events/s: {rung.delivered} of {rung.expected}, P99 {1e3 * rung.p99_s:.1f} ms late"
            )
            if not rung.carried:
                return

    async def _rung(self, number: int, name: str, stage: Stage, events_per_s: int) -> Rung:
        load, before = self.load, stage.look()
        streams = max(1, round(events_per_s / load.per_stream))
        found = await offer_streams(stage.url, load, streams, load.per_stream, load.seconds)
        spent = stage.look().since(before)
        return Rung(
            arm=name,
            number=number,
            events_per_s=events_per_s,
            streams=found.streams,
            expected=found.expected,
            delivered=len(found.delays_s),
            failures=found.failures,
            p50_s=_quantile(found.delays_s, 0.5),
            p99_s=_quantile(found.delays_s, 0.99),
            late_s=load.late_s,
            arm_cpu_s=spent.arm_s,
            busy=_busy(spent),
        )


def _latency(found: CallsFound) -> Latency:
    latencies = found.latencies_s
    return Latency(len(latencies), found.failures, _quantile(latencies, 0.5), _quantile(latencies, 0.99))


def _busy(spent: Spent) -> Busy:
    each = (spent.arm_s, spent.engine_s, spent.client_s, max(0.0, spent.others_s))
    return Busy(*(seconds / spent.wall_s for seconds in each))


def _quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of all do not exceed; infinite where there is none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else inf
