"""Decisions about a call: whose it is, whether it is served, by which engine, with what headers. No bytes move here.

One event loop decides for all calls, so that the program table and the engines' loads have one writer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autellix_sdk.wire import ProgramId
from autellix_server.balancing.balancer import Balancer
from autellix_server.balancing.choice import BalancedCall, Choice
from autellix_server.balancing.estimate import TokenEstimate
from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.calls import CallLedger
from autellix_server.gateway.desk import CANCELLED, UNANSWERED, CallRequest, Reads, Report
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.fleet.member import Member
from autellix_server.gateway.headers import TRACE_HEADER
from autellix_server.gateway.refusal import Refused, unavailable
from autellix_server.gateway.telemetry.events import CallRecord, Listeners, PinMove, Refusal
from autellix_server.gateway.tenants.tenants import Tenants
from autellix_server.gateway.ticket import Ticket
from autellix_server.scheduling.table import Program


class Dispatcher:
    """Admits calls and places them on engines. One event loop.

    Args:
        fleet: the engines.
        ledger: where calls are entered.
        balancer: chooses among engines.
        tenants: who may call.
        listeners: told of calls, and of what is refused.
        trace_headers: returns the trace context with which a call goes to its engine.
    """

    def __init__(
        self,
        fleet: Fleet,
        ledger: CallLedger,
        balancer: Balancer,
        tenants: Tenants,
        listeners: Listeners,
        trace_headers: Callable[[CallRecord], dict[str, str]] = lambda record: {},
    ) -> None:
        self.fleet = fleet
        self.ledger = ledger
        self.tenants = tenants
        self.listeners = listeners
        self.trace_headers = trace_headers
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
        try:
            ticket = self._open(request)
        except Refused as refusal:
            self.listeners.noted(Refusal(refusal.code))
            raise
        self._tickets.setdefault(ticket.program.id, set()).add(ticket)
        try:
            await ticket.place()
        except BaseException as error:
            ticket.close(Report(failure="refused" if isinstance(error, Refused) else None))
            raise
        return ticket

    def _open(self, request: CallRequest) -> Ticket:
        """Enter a call, unless something stands against it: key, model, engines, its program, limits."""
        tenant = self.tenants.who(request.headers)
        self._check_model(request.model)
        self._serving(request.model)
        found = self.ledger.identify(request.headers, request.session, tenant.name)
        self.tenants.admit(tenant, new_program=found.is_new)
        call = self.ledger.arrive(found, self.tenants.stand(tenant), request.arrived_s)
        record = CallRecord(
            found.context,
            request.arrived_s,
            tenant.name,
            request.path,
            self._fleet_name(request.model),
            request.streamed,
            found.single_call,
            request.headers.get(TRACE_HEADER),
        )
        if found.is_new:
            self.listeners.program_opened(call.program)
        self.listeners.call_arrived(record)
        return Ticket(self, call, request, tenant, record)

    def _fleet_name(self, model: str | None) -> str:
        """Return the name that the fleet has for a model; empty: it has none, or several."""
        models = self.fleet.models
        if model is not None:
            return model if model in models else ""
        return models[0] if models else ""

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

    async def resources(self, headers: Mapping[str, str], model: str | None) -> list[EngineAddress]:
        """Return the engines that may have what a request that runs no model asks for, the least used first.

        Args:
            headers: of the request.
            model: that it names, if that matters.

        Raises:
            Refused: there is none, or the request has no key that is good.
        """
        self.tenants.who(headers)
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
        if choice.moved_from is not None:
            reason = "overload" if choice.moved_from in serving else "away"
            self.listeners.noted(PinMove(reason, choice.moved_from, choice.engine.name))
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
