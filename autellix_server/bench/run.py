"""A whole comparison: servers one after the other, rounds in turn, and what they left behind when it is interrupted."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from autellix_server.bench.client import ClientSettings, Server, connect, open_session
from autellix_server.bench.driver import Driver
from autellix_server.bench.plan import NO_CUT, Arm, Cut, Pace, Round, arrivals_at, counted_numbers, interleave
from autellix_server.bench.records import RoundRecord
from autellix_server.engine.progress import Progress
from autellix_server.errors import ServerError
from autellix_server.local_server import running_server
from autellix_server.traces.model import TraceProgram

ServerStarter = Callable[[Sequence[str], Callable[[str], None]], AbstractAsyncContextManager[str]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared.

    Attributes:
        arms: servers, the first of which the others are set beside; their names differ.
        programs: what runs on each of them, in order of arrival.
        paces: how the programs arrive.
        repeats: repetitions, 1 or more.
        alone: programs that run one at a time first, to know the unloaded server; 0 for none.
        warmup, cooldown: parts of a round's arrivals whose programs run and do not count.
        seed: of the arrivals and the bootstrap.
        class_names: tell servers what kind a program is.
    """

    arms: Sequence[Arm]
    programs: Sequence[TraceProgram]
    paces: Sequence[Pace]
    repeats: int = 1
    alone: int = 0
    warmup: Cut = NO_CUT
    cooldown: Cut = NO_CUT
    seed: int = 0
    class_names: bool = True

    @property
    def rounds(self) -> list[Round]:
        """All rounds, in order."""
        return interleave(self.arms, self.paces, self.repeats, alone=self.alone > 0)

    def load(self, pace: Pace) -> tuple[list[TraceProgram], frozenset[int]]:
        """Return the programs of a round with their arrival times, and the numbers of those that count.

        Raises:
            UsageError: none counts.
            TraceError: the trace has no times where they are asked for.
        """
        if pace.alone:
            return list(self.programs[: self.alone]), frozenset(range(self.alone))
        programs = arrivals_at(self.programs, pace, self.seed)
        times = [program.arrival_seconds or 0.0 for program in programs]
        return programs, counted_numbers(times, self.warmup, self.cooldown)


@dataclass(slots=True)
class Bench:
    """Runs a plan; use it once.

    Args:
        plan: what is compared.
        client: how servers are spoken to.
        progress: is told what happens.
        nonce: makes this run's prompts unlike those of runs before; a few of ``[0-9a-z]``.
        start_server: starts a server for arms without a URL; see `running_server`.

    Attributes:
        rounds: what was measured, in order; the last one may be incomplete.
        facts: what each arm says of itself.
        complaints: what each arm does not do as asked.
    """

    plan: Plan
    client: ClientSettings
    progress: Progress
    nonce: str
    start_server: ServerStarter = running_server
    rounds: list[RoundRecord] = field(default_factory=list)
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    complaints: dict[str, Sequence[str]] = field(default_factory=dict)

    async def run(self) -> bool:
        """Run all rounds; when cancelled, keep what was measured, leave servers stopped, and return False.

        Raises:
            ServerError: a server does not start, cannot be reached or refuses what is needed; its arm is named.
        """
        rounds = list(enumerate(self.plan.rounds))
        try:
            for arm, turn in itertools.groupby(rounds, key=lambda numbered: numbered[1].arm):
                async with self._server(arm) as server:
                    for number, one in turn:
                        await self._run_round(number, one, server)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            return False
        return True

    @asynccontextmanager
    async def _server(self, arm: Arm) -> AsyncIterator[Server]:
        async with AsyncExitStack() as stack:
            url = arm.url
            if url is None:
                self.progress.stage(f"starting {arm.name}")
                url = await stack.enter_async_context(self.start_server(arm.serve_arguments, self._say_of_server))
            session = await stack.enter_async_context(open_session(url, self.client))
            try:
                server = await connect(session, self.client)
            except ServerError as error:
                raise ServerError(f"{arm.name}: {error}") from error
            self.facts[arm.name], self.complaints[arm.name] = server.facts, server.complaints
            yield server

    def _say_of_server(self, line: str) -> None:
        self.progress.say(line.removeprefix("autellix: "))

    async def _run_round(self, number: int, one: Round, server: Server) -> None:
        programs, counted = self.plan.load(one.pace)
        title = f"round {number + 1} of {len(self.plan.rounds)}: {one.arm.name} {one.pace}"
        self.progress.stage(title, steps=2 * len(programs))
        await server.flush_cache()
        watcher = _Watcher(self.progress.step)
        driver = Driver(server, watcher, f"{self.nonce}{number}", self.plan.class_names)
        cpu_s = time.process_time()
        try:
            await (driver.run_alone(programs) if one.pace.alone else driver.run(programs))
        finally:
            cpu_s = time.process_time() - cpu_s
            ends_s = [record.ended_s for record in driver.records]
            span_s = max(ends_s, default=driver.began_s) - driver.began_s
            record = RoundRecord(one, driver.records, len(programs), counted, span_s, cpu_s)
            if driver.arrived:
                self.rounds.append(record)
        self.progress.say(f"  {_words(record)}")


@dataclass(slots=True)
class _Watcher:
    """Turns counts into steps of a progress: one when a program arrives, one when it ends."""

    step: Callable[[str], None]

    def changed(self, arrived: int, ended: int, failed: int) -> None:
        self.step(f"{arrived} arrived, {ended} ended, {failed} failed")


def _words(record: RoundRecord) -> str:
    """Say in one line how a round went."""
    failed = sum(program.failure is not None for program in record.programs)
    latencies_s = [program.token_latency_s for program in record.measured]
    words = f"{len(record.programs)} programs in {record.span_s:.0f} s, {failed} failed"
    if latencies_s:
        words += f", {1e3 * sum(latencies_s) / len(latencies_s):.1f} ms/token"
    return words
