"""One call between its admission and its end, at an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from autellix_server.balancing.choice import Choice
from autellix_server.balancing.estimate import TokenEstimate
from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.calls import CallLedger, OpenCall
from autellix_server.gateway.desk import CallRequest, Report
from autellix_server.gateway.fleet.estimated_bill import SeenTimes
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.fleet.member import Member
from autellix_server.gateway.fleet.window import Answered
from autellix_server.gateway.telemetry.events import CallRecord, Listeners, Outcome, Stage
from autellix_server.gateway.tenants.keys import Tenant
from autellix_server.gateway.tenants.tenants import Tenants
from autellix_server.scheduling.call import Call
from autellix_server.scheduling.table import Program

_US = 1_000_000
_CLIENT_ERROR = 400


class Issuer(Protocol):
    """Who issues tickets: the dispatcher."""

    ledger: CallLedger
    estimate: TokenEstimate
    tenants: Tenants
    listeners: Listeners
    trace_headers: Callable[[CallRecord], dict[str, str]]

    def choose(self, program: Program, request: CallRequest, without: Member | None) -> tuple[Member, Choice]:
        """Return the engine for a call, see `Dispatcher.choose`."""

    def closed(self, ticket: Ticket) -> None:
        """Forget a ticket."""


class Ticket:
    """Satisfies `desk.Ticket`. Made by `Dispatcher.admit`.

    Belongs to the task that was admitted, which `interrupt` cancels.

    Args:
        issuer: the dispatcher.
        call: its account.
        request: what it asks for.
        tenant: whose it is.
        record: what listeners are told of it.
    """

    address: EngineAddress
    priority: int | None = None

    def __init__(
        self, issuer: Issuer, call: OpenCall, request: CallRequest, tenant: Tenant, record: CallRecord
    ) -> None:
        self._issuer = issuer
        self._call = call
        self._request = request
        self._tenant = tenant
        self._record = record
        self._cancelled = False
        self._task = asyncio.current_task()
        self._resumed = asyncio.Event()
        self._interruption: Interruption | None = None
        self._stay: _Stay | None = None
        self._moved = False

    @property
    def program(self) -> Program:
        """The row of the call's program."""
        return self._call.program

    @property
    def headers(self) -> dict[str, str]:
        """What the engine is told of the call: the trace it is in, and if it is ours who it is."""
        headers = self._issuer.trace_headers(self._record)
        if self.address.secret is None or self._stay is None:
            return headers
        return headers | self._call.headers(self.address.secret, self._stay.member.ended)

    async def place(self, without: Member | None = None) -> None:
        """Choose an engine, and wait until it may have the call.

        Args:
            without: an engine that has failed the call.

        Raises:
            Refused: there is none.
            Interruption: the call was interrupted while it waited.
        """
        clock = self._issuer.ledger.clock
        while True:
            while self.program.paused:
                self._resumed.clear()
                with self.interruptible():
                    await self._resumed.wait()
            member, choice = self._issuer.choose(self.program, self._request, without)
            self._moved = self._moved or choice.moved_from is not None
            stay = self._stay = _Stay(member, self._call.in_line(self._prompt_tokens))
            member.calls.add(self)
            if member.line is not None:
                self._record.note(Stage.HELD, clock(), member.name)
            address = await self._begun(stay)
            if address is not None:
                break
            self._end_stay(Report())
            if not self.program.paused:
                without = member
        self._record.note(Stage.SENT, clock(), member.name)
        self.address, self.priority = address, stay.priority

    async def _begun(self, stay: _Stay) -> EngineAddress | None:
        """Wait until an engine may have the call, and return its address, see `_Stay.begin`."""
        try:
            with self.interruptible():
                return await stay.begin(self.program, self._issuer.ledger.clock)
        except Interruption as reason:
            if not reason.retryable:
                raise
            return None

    async def move(self, report: Report) -> None:
        """Move to another engine, see `desk.Ticket`."""
        failed = None if self._stay is None else self._stay.member
        self._end_stay(report)
        await self.place(failed)

    async def settle(self, text: bytes) -> bytes | None:
        """Charge the engine's bill, see `OpenCall.settle`."""
        bill = self._call.settle(text, moved=self._moved)
        if bill is None:
            return None
        self._learn(bill.prompt_tokens)
        return bill.encode().encode("ascii")

    def close(self, report: Report) -> None:
        """Take the call out; one without a bill is charged what was seen of it."""
        self._end_stay(report)
        self._issuer.closed(self)
        self._call.close()
        bill, tenants, now = self._call.bill, self._issuer.tenants, self._issuer.ledger.clock()
        if bill is not None:
            self._record.settle(bill, now)
        # Who left an engine before anything was seen of the call is charged a mean one among the shares.
        unknown = None if self._record.engine and report.failure is None and report.status is None else 0.0
        tenants.charge(self._tenant, unknown if bill is None else bill.service_us / _US)
        tenants.release(self._tenant, 0 if bill is None else bill.prompt_tokens + bill.output_tokens)
        self._record.end(self._outcome(report), now)
        self._issuer.listeners.call_ended(self._record)

    def _outcome(self, report: Report) -> Outcome:
        if self._cancelled:
            return Outcome.CANCELLED
        if report.failure is not None:
            return Outcome.FAILED
        if report.total_s is None:
            return Outcome.CLIENT_LEFT
        return Outcome.REJECTED if _rejected(report) else Outcome.OK

    def _end_stay(self, report: Report) -> None:
        stay, self._stay = self._stay, None
        if stay is None:
            return
        stay.member.calls.discard(self)
        if stay.sent_s is None:
            return  # It only waited there.
        ledger = self._issuer.ledger
        now = ledger.clock()
        ledger.counters.engine_failures += report.failure is not None
        if report.first_byte_s is not None:
            self._record.note(Stage.FIRST_BYTE, stay.sent_s + report.first_byte_s, stay.member.name)
        if report.failure is not None:
            self._record.note(Stage.FAILED, now, stay.member.name, "engine")
        stay.end(report, now, self._prompt_tokens)
        seen = stay.seen(self._request.arrived_s, stay.sent_s, report, now)
        if report.failure is None and seen is not None:
            self._call.estimate(stay.member.name, seen, report.usage)
        if report.usage is not None:
            self._learn(report.usage.prompt_tokens)

    @property
    def _prompt_tokens(self) -> int:
        return self._issuer.estimate.tokens(self._request.model or "", self._request.body_bytes)

    def _learn(self, prompt_tokens: int) -> None:
        self._issuer.estimate.learn(self._request.model or "", self._request.body_bytes, prompt_tokens)

    def resume(self) -> None:
        """Look again whether the program is paused."""
        self._resumed.set()

    def interrupt(self, reason: Interruption) -> None:
        """Cancel the work on the call; `interruptible` turns the cancellation into `reason`."""
        known = self._interruption
        if self._task is None or (known is not None and (reason.retryable or not known.retryable)):
            return
        self._interruption = reason
        self._cancelled = self._cancelled or not reason.retryable
        if known is None:
            self._task.cancel()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Work on the call inside.

        Raises:
            Interruption: the call was interrupted; a cancellation by anybody else stays one.
        """
        try:
            yield
        except asyncio.CancelledError:
            reason, self._interruption = self._interruption, None
            if reason is None or self._task is None or self._task.uncancel() > 0:
                raise
            raise reason from None


class _Stay:
    """A call at one engine."""

    priority: int | None = None

    def __init__(self, member: Member, call: Call) -> None:
        self.member = member
        self.sent_s: float | None = None
        self._call = call
        self._ours = member.ours  # Of an engine that is gone nobody knows.
        self._era = 0

    async def begin(self, program: Program, clock: Callable[[], float]) -> EngineAddress | None:
        """Wait until the engine may have the call, and return its address.

        `None`: meanwhile it went away, or the call's program was paused.
        """
        member = self.member
        if member.line is not None:
            await member.line.enter(self._call)
            if member.address is None or program.paused:
                member.line.left(self._call)
                return None
            if member.priority is not None:
                self.priority = member.priority.value_of(self._call.level)
        self.sent_s = clock()
        self._era = member.breaker.sent(self.sent_s)
        return member.address

    def end(self, report: Report, now: float, prompt_tokens: int) -> None:
        """Take a call that was sent out of the engine, which is judged by what became of it."""
        line, breaker, total_s = self.member.line, self.member.breaker, report.total_s
        if report.failure is not None:
            breaker.failed(self._era, report.failure, now)
        elif total_s is None:
            breaker.left(self._era)
        else:
            self.member.alive_s = now
            breaker.answered(self._era, total_s if report.first_byte_s is None else report.first_byte_s, now)
        if line is None:
            return
        if report.failure is not None or total_s is None or _rejected(report):
            line.left(self._call)
        else:
            output_tokens = 0 if report.usage is None else report.usage.output_tokens
            line.answered(self._call, Answered(total_s, report.first_byte_s, prompt_tokens, output_tokens))

    def seen(self, arrived_s: float, sent_s: float, report: Report, now: float) -> SeenTimes | None:
        """Return what was seen of a call as far as its program can be charged with it, `None` for nothing.

        Of a call that an engine of ours did not bill only what came after its first byte is certain to be service.
        """
        first_s = None if report.first_byte_s is None else sent_s + report.first_byte_s
        if self._ours:
            return None if first_s is None else SeenTimes(arrived_s, first_s, first_s, now)
        return SeenTimes(arrived_s, sent_s, first_s, now)


def _rejected(report: Report) -> bool:
    return report.status is not None and report.status >= _CLIENT_ERROR
