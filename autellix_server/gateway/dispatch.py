"""Decisions about a call: whose it is, whether it is served, by which engine, with what headers. No bytes move here.

One event loop decides for all calls, so that the program table and the engines' loads have one writer.
"""

from __future__ import annotations

from autellix_sdk.wire import ProgramId
from autellix_server.balancing.balancer import Balancer
from autellix_server.balancing.choice import BalancedCall, Choice
from autellix_server.balancing.estimate import TokenEstimate
from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.calls import CallLedger
from autellix_server.gateway.desk import CANCELLED, UNANSWERED, CallRequest, Outcome, Reads
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.fleet.member import Member
from autellix_server.gateway.refusal import Refused, unavailable
from autellix_server.gateway.ticket import Ticket
from autellix_server.scheduling.table import Program


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
        self.estimate = TokenEstimate()
        self._balancer = balancer
        self._tickets: dict[ProgramId, set[Ticket]] = {}

    @property
    def reads(self) -> Reads:
        """What it must be told of bodies."""
        return Reads(models=self.fleet.mixed, prefixes=self._balancer.uses_prefix)

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
            ticket.close(Outcome())
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
        self.ledger.table.mark(program, paused=True)

    def resume(self, program: Program) -> None:
        """Let a program's calls go on."""
        self.ledger.table.mark(program, paused=False)
        for ticket in self._tickets.get(program.id, ()):
            ticket.resume()

    def cancel(self, program: Program) -> None:
        """End a program and everything it has in flight; its calls are refused until it is opened again."""
        self.ledger.table.mark(program, cancelled=True, paused=False)
        for ticket in tuple(self._tickets.get(program.id, ())):
            ticket.interrupt(Interruption("the program was cancelled", CANCELLED, retryable=False))
        self.ledger.end(program.id)

    async def resources(self, model: str | None) -> list[EngineAddress]:
        """Return the engines that may have what a request that runs no model asks for, the least used first.

        Raises:
            Refused: there is none.
        """
        members = sorted(self._serving(model), key=lambda member: member.load.calls)
        return [member.address for member in members if member.address is not None]

    def choose(self, program: Program, request: CallRequest, without: Member | None) -> tuple[Member, Choice]:
        """Return the engine for a call, and how it was chosen; the program's pin follows.

        Args:
            program: the call's.
            request: what it asks for.
            without: an engine that has failed the call.

        Raises:
            Refused: there is none.
        """
        serving = {member.name: member for member in self._serving(request.model) if member is not without}
        if not serving:
            raise unavailable(UNANSWERED)
        tokens = self.estimate.tokens(request.model or "", request.body_bytes)
        balanced = BalancedCall(program.id, tokens, request.prefix)
        choice = self._balancer.choose(balanced, [member.load for member in serving.values()], program.pin)
        if choice.pins:
            self.ledger.table.pin(program, choice.engine.name)
        return serving[choice.engine.name], choice

    def failed(self, address: EngineAddress) -> None:
        """Note that an engine did not answer a request that runs no model, or not to the end."""
        self.ledger.counters.engine_failures += 1

    def _serving(self, model: str | None) -> list[Member]:
        serving = self.fleet.serving(model, self.clock())
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
