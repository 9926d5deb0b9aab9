"""Decisions about a call: whose it is, whether it is served, by which engine, with what headers. No bytes move here.

One event loop decides for all calls, so that the program table and the engines' loads have one writer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from autellix_sdk.wire import ProgramId
from autellix_server.balancing.balancer import BalancedCall, Balancer, EngineLoad
from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.calls import CallLedger, OpenCall
from autellix_server.gateway.desk import CANCELLED, UNANSWERED, CallRequest
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.fleet.member import Member
from autellix_server.gateway.refusal import Refused, unavailable
from autellix_server.scheduling.table import Program

_BYTES_PER_TOKEN = 4


class Dispatcher:
    """Admits calls and places them on engines. One event loop.

    Args:
        fleet: the engines.
        ledger: where calls are entered.
        balancer: chooses among engines.
    """

    def __init__(self, fleet: Fleet, ledger: CallLedger, balancer: Balancer) -> None:
        self.fleet = fleet
        self.ledger = ledger
        self._balancer = balancer
        self._tickets: dict[ProgramId, set[Ticket]] = {}

    @property
    def reads_models(self) -> bool:
        """Whether it must be told what model a request names."""
        return self.fleet.mixed

    def clock(self) -> float:
        """Return the time on the ledger's clock."""
        return self.ledger.clock()

    async def admit(self, request: CallRequest) -> Ticket:
        """Take a call in and wait until it has an engine; the ticket must be closed, by the task that got it.

        Raises:
            Refused: it cannot be served now.
            Interruption: it was interrupted while it waited.
        """
        self._check_model(request.model)
        self._serving(request.model)
        call = self.ledger.arrive(request.headers, request.session, request.arrived_s)
        ticket = Ticket(self, call, request)
        self._tickets.setdefault(ticket.program.id, set()).add(ticket)
        try:
            await ticket.place()
        except BaseException:
            ticket.close()
            raise
        return ticket

    def closed(self, ticket: Ticket) -> None:
        """Forget a ticket; it calls this itself."""
        tickets = self._tickets[ticket.program.id]
        tickets.remove(ticket)
        if not tickets:
            del self._tickets[ticket.program.id]

    def pause(self, program: Program) -> None:
        """Hold a program's calls back from now on; those at engines go on."""
        program.paused = True

    def resume(self, program: Program) -> None:
        """Let a program's calls go on."""
        program.paused = False
        for ticket in self._tickets.get(program.id, ()):
            ticket.resume()

    def cancel(self, program: Program) -> None:
        """End a program and everything it has in flight; its calls are refused until it is opened again."""
        program.cancelled, program.paused = True, False
        for ticket in tuple(self._tickets.get(program.id, ())):
            ticket.interrupt(Interruption("the program was cancelled", CANCELLED, retryable=False))
        self.ledger.end(program.id)

    async def resources(self, model: str | None) -> list[EngineAddress]:
        """Return the engines that may have what a request that runs no model asks for, the least used first.

        Raises:
            Refused: there is none.
        """
        members = self._serving(model)
        return [member.address for member in sorted(members, key=lambda member: member.load) if member.address]

    def choose(self, call: OpenCall, request: CallRequest, without: Member | None) -> Member:
        """Return the engine for a call.

        Args:
            call: the call.
            request: what it asks for.
            without: an engine that has failed the call.

        Raises:
            Refused: there is none.
        """
        serving = {member.name: member for member in self._serving(request.model) if member is not without}
        if not serving:
            raise unavailable(UNANSWERED)
        balanced = BalancedCall(call.program.id, request.body_bytes // _BYTES_PER_TOKEN)
        loads = [EngineLoad(member.name, member.load) for member in serving.values()]
        name = self._balancer.choose(balanced, loads, call.program.pin).name
        if self._balancer.pins(balanced):
            call.program.pin = name
        return serving[name]

    def failed(self, address: EngineAddress) -> None:
        """Note that an engine did not answer a request, or not to the end."""
        self.ledger.counters.engine_failures += 1

    def _serving(self, model: str | None) -> list[Member]:
        serving = self.fleet.serving(model)
        if serving:
            return serving
        if model is not None and not self.fleet.knows(model):
            names = ", ".join(self.fleet.models)
            raise Refused(404, f"no engine serves the model {model!a}; there are: {names}", "model_not_found")
        raise unavailable(self.fleet.detail)

    def _check_model(self, model: str | None) -> None:
        if model is None and self.fleet.mixed:
            names = ", ".join(self.fleet.models)
            raise Refused(400, f"the body must be a JSON object that names a model, one of: {names}", "model_required")


class Ticket:
    """One call between its admission and its end, at an engine; satisfies `desk.Ticket`. Made by `Dispatcher.admit`.

    Belongs to the task that was admitted, which `interrupt` cancels.
    """

    address: EngineAddress

    def __init__(self, dispatcher: Dispatcher, call: OpenCall, request: CallRequest) -> None:
        self._dispatcher = dispatcher
        self._call = call
        self._request = request
        self._task = asyncio.current_task()
        self._resumed = asyncio.Event()
        self._interruption: Interruption | None = None
        self._member: Member | None = None

    @property
    def program(self) -> Program:
        """The row of the call's program."""
        return self._call.program

    @property
    def headers(self) -> dict[str, str]:
        """What the engine is told of the call: nothing if it is not ours."""
        return {} if self.address.secret is None else self._call.headers(self.address.secret)

    async def place(self) -> None:
        """Choose an engine, and wait until it may have the call; not the engine where it was, which has failed it.

        Raises:
            Refused: there is none.
            Interruption: the call was interrupted while it waited.
        """
        before, self._member = self._member, None
        if before is not None:
            before.calls.discard(self)
        while self.program.paused:
            self._resumed.clear()
            with self.interruptible():
                await self._resumed.wait()
        member = self._dispatcher.choose(self._call, self._request, without=before)
        assert member.address is not None
        member.calls.add(self)
        self._member, self.address = member, member.address

    async def settle(self, text: bytes) -> bytes | None:
        """Charge the engine's bill, see `OpenCall.settle`."""
        return self._call.settle(text)

    def resume(self) -> None:
        """Look again whether the program is paused."""
        self._resumed.set()

    def interrupt(self, reason: Interruption) -> None:
        """Cancel the work on the call; `interruptible` turns the cancellation into `reason`."""
        if self._interruption is None and self._task is not None:
            self._interruption = reason
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

    def close(self) -> None:
        """Take the call out, uncharged unless it was settled."""
        if self._member is not None:
            self._member.calls.discard(self)
        self._dispatcher.closed(self)
        self._call.close()
