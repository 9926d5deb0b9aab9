"""Decisions about a call: whose it is, whether it is served, by which engine, with what headers. No bytes move here.

One event loop decides for all calls, so that the program table and the engines' loads have one writer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from autellix_sdk.wire import ProgramId
from autellix_server.balancing.balancer import BalancedCall, Balancer, EngineLoad
from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.calls import CallLedger, OpenCall
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.fleet.member import Member
from autellix_server.gateway.refusal import Refused, unavailable
from autellix_server.scheduling.table import Program

UNANSWERED = "it did not answer the call; if it died it is being restarted"

CANCELLED = "program_cancelled"

_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A request that runs a model, as far as decisions need it.

    Attributes:
        path: decoded path, such as ``/v1/chat/completions``.
        headers: request headers, in a mapping that ignores case.
        body: as it came; read only where engines serve different models, or no header names a program.
        arrived_s: when the request began, on the ledger's clock.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    arrived_s: float


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

    def open(self, request: CallRequest) -> Ticket:
        """Take a call in; the ticket must be closed.

        Raises:
            Refused: it cannot be served now.
        """
        model = self._model(request.body)
        self._serving(model)
        ticket = Ticket(self, self.ledger.arrive(request.headers, request.body, request.arrived_s), request, model)
        self._tickets.setdefault(ticket.program.id, set()).add(ticket)
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

    def resources(self, body: bytes) -> list[EngineAddress]:
        """Return the engines that may have what a request that runs no model asks for, the least used first.

        Raises:
            Refused: there is none.
        """
        members = self._serving(self._named_model(body) if self.fleet.mixed else None)
        return [member.address for member in sorted(members, key=lambda member: member.load) if member.address]

    def choose(self, call: OpenCall, prompt_bytes: int, model: str | None, without: Member | None) -> Member:
        """Return the engine for a call.

        Args:
            call: the call.
            prompt_bytes: length of its body.
            model: that it names, if that matters.
            without: an engine that has failed the call.

        Raises:
            Refused: there is none.
        """
        serving = {member.name: member for member in self._serving(model) if member is not without}
        if not serving:
            raise unavailable(UNANSWERED)
        balanced = BalancedCall(call.program.id, prompt_bytes // _BYTES_PER_TOKEN)
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

    def _model(self, body: bytes) -> str | None:
        """Return the model that a call names, where engines differ."""
        if not self.fleet.mixed:
            return None
        model = self._named_model(body)
        if model is None:
            names = ", ".join(self.fleet.models)
            raise Refused(400, f"the body must be a JSON object that names a model, one of: {names}", "model_required")
        return model

    @staticmethod
    def _named_model(body: bytes) -> str | None:
        try:
            model = json.loads(body)["model"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return model if isinstance(model, str) else None


class Ticket:
    """One call between its admission and its end. Made by `Dispatcher.open`; must be closed.

    Belongs to the task that opened it, which `interrupt` cancels.
    """

    def __init__(self, dispatcher: Dispatcher, call: OpenCall, request: CallRequest, model: str | None) -> None:
        self._dispatcher = dispatcher
        self._call = call
        self._model = model
        self._prompt_bytes = len(request.body)
        self._task = asyncio.current_task()
        self._resumed = asyncio.Event()
        self._interruption: Interruption | None = None
        self._member: Member | None = None

    @property
    def program(self) -> Program:
        """The row of the call's program."""
        return self._call.program

    async def place(self, *, elsewhere: bool = False) -> EngineAddress:
        """Choose an engine, and wait until it may have the call.

        Args:
            elsewhere: not where it was, which has failed the call.

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
        member = self._dispatcher.choose(
            self._call, self._prompt_bytes, self._model, without=before if elsewhere else None
        )
        member.calls.add(self)
        self._member = member
        address = member.address
        assert address is not None
        return address

    def headers(self, address: EngineAddress) -> dict[str, str]:
        """Return what the engine is told of the call: nothing if it is not ours."""
        return {} if address.secret is None else self._call.headers(address.secret)

    def settle(self, text: bytes) -> bytes | None:
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
