"""Runs programs against a server: each arrives by the clock, and inside it a call starts when its parents are done.

The loop is open: nothing that the server does delays an arrival, and the number of calls in flight is not limited. So
a server that stalls is not spared the load it would have had, and the time that arrivals lose to it is measured
(what a closed loop hides is known as coordinated omission). All times count from when something *was to* start; when
the client itself is late, that is part of the latency, and is measured beside it.

Time is that of the running event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.bench.api import CallFailure
from autellix_server.bench.records import Answer, CallRecord, ProgramRecord
from autellix_server.simulator.call_graph import PendingCalls
from autellix_server.traces.model import MAX_PROGRAM_ID, TraceCall, TraceProgram
from autellix_server.traces.prompts import PromptBook

AHEAD_S = 0.05
"""A program's first prompts are made this long before it arrives."""

CLIENT_SALT = "b"


class Sender(Protocol):
    """The way to a server. Many calls are sent at once, from one event loop."""

    async def send(self, context: CallContext, prompt: str, tokens: int) -> Answer:
        """Send a call and return its answer.

        Args:
            context: who the call is.
            prompt: its prompt.
            tokens: how long its output is to be, 1 or more.

        Raises:
            CallFailure: it came to nothing.
        """

    async def end(self, program: ProgramId, failed: bool) -> None:
        """Say that a program has ended; never raises `CallFailure`."""


class Watcher(Protocol):
    """Is told how a round goes."""

    def changed(self, arrived: int, ended: int, failed: int) -> None:
        """Take new counts of programs; those that failed have ended too."""


@dataclass(slots=True)
class Driver:
    """One round; use it once. When it is cancelled, `records` has what had ended by then.

    Args:
        sender: the way to the server.
        watcher: is told of every program.
        salt: makes prompts and program IDs of this round unlike those of others.
        class_names: tell the server what kind a program is.

    Attributes:
        records: programs that ended or failed, in this order.
        arrived: programs that have arrived.
        began_s: when the first program was to arrive.
    """

    sender: Sender
    watcher: Watcher
    salt: str
    class_names: bool = True
    records: list[ProgramRecord] = field(default_factory=list)
    arrived: int = 0
    began_s: float = 0.0
    _failed: int = 0

    async def run(self, programs: Sequence[TraceProgram]) -> None:
        """Let the programs arrive at their `arrival_seconds`, and return when all have ended.

        Args:
            programs: in order of arrival, each with a time.
        """
        self.began_s = asyncio.get_running_loop().time() + AHEAD_S
        async with asyncio.TaskGroup() as running:
            for number, program in enumerate(programs):
                due_s = self.began_s + (program.arrival_seconds or 0.0)
                await _sleep_until(due_s - AHEAD_S)
                running.create_task(self._run_program(number, program, due_s))

    async def run_alone(self, programs: Sequence[TraceProgram]) -> None:
        """Let each program arrive when the one before has ended."""
        loop = asyncio.get_running_loop()
        self.began_s = loop.time()
        for number, program in enumerate(programs):
            await self._run_program(number, program, loop.time() + AHEAD_S)

    async def _run_program(self, number: int, program: TraceProgram, due_s: float) -> None:
        running = _RunningProgram(number, program, due_s, self.sender, self.salt, self.class_names)
        self.arrived += 1
        self._tell()
        record = await running.run()
        self.records.append(record)
        self._failed += record.failure is not None
        self._tell()
        await self.sender.end(running.id, failed=record.failure is not None)

    def _tell(self) -> None:
        self.watcher.changed(self.arrived, len(self.records), self._failed)


class _RunningProgram:
    """A program under way."""

    def __init__(
        self, number: int, program: TraceProgram, due_s: float, sender: Sender, salt: str, class_names: bool
    ) -> None:
        suffix = f".{salt}.{number}"
        self.id = ProgramId(program.program_id[: MAX_PROGRAM_ID - len(suffix)] + suffix)
        self._number = number
        self._program = program
        self._due_s = due_s
        self._sender = sender
        self._name = program.kind if class_names else None
        self._pending = PendingCalls(program.calls)
        self._prompts = PromptBook(program, salt)
        self._answers: dict[str, str] = {}
        self._records: list[CallRecord] = []
        self._ended_s = due_s
        self._response_s = 0.0

    async def run(self) -> ProgramRecord:
        """Run all calls; the first that fails ends the program, as an exception ends an agent."""
        failure = None
        try:
            async with asyncio.TaskGroup() as calls:
                for root in self._pending.roots:
                    calls.create_task(self._run_call(calls, root, self._due_s, 0.0))
        except* CallFailure as failures:
            failure = str(failures.exceptions[0])
            self._ended_s = asyncio.get_running_loop().time()
        return ProgramRecord(
            self._number,
            self._program.kind,
            self._due_s,
            self._ended_s,
            self._response_s,
            tuple(self._records),
            failure,
        )

    async def _run_call(self, calls: asyncio.TaskGroup, call: TraceCall, due_s: float, path_s: float) -> None:
        """Run one call and start those that waited for it alone; `path_s` as in `PendingCalls.released_by`."""
        context = CallContext(
            self.id, CLIENT_SALT, call.thread, CallId(call.id), tuple(map(CallId, call.parents)), name=self._name
        )
        prompt = self._prompts.text(call.id, self._answers)
        await _sleep_until(due_s)
        sent_s = asyncio.get_running_loop().time()
        tokens = max(1, call.output_tokens)
        answer = await self._sender.send(context, prompt, tokens)
        self._records.append(CallRecord(due_s, sent_s, answer, call.prompt_tokens, tokens))
        self._answers[call.id] = answer.text
        path_s += answer.ended_s - due_s
        if answer.ended_s >= self._ended_s:
            self._ended_s, self._response_s = answer.ended_s, path_s
        for ready_s, longest_s, child in self._pending.released_by(call, path_s, answer.ended_s):
            calls.create_task(self._run_call(calls, child, ready_s, longest_s))


async def _sleep_until(at_s: float) -> None:
    """Sleep until a time of the event loop; not at all when it is past."""
    delay_s = at_s - asyncio.get_running_loop().time()
    if delay_s > 0:
        await asyncio.sleep(delay_s)
