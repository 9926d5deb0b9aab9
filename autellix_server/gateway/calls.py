"""Calls in flight at the gateway: who they are, what they had attained when they came, what they are billed."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from autellix_sdk.bill import CallBill, decode_bill
from autellix_sdk.errors import WireError
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER, STAMP_HEADER, CallContext, ProgramId, encode_call
from autellix_server.balancing.choice import recomputed_tokens
from autellix_server.gateway.desk import CANCELLED
from autellix_server.gateway.fleet.estimated_bill import SeenTimes, Usage, estimated_bill
from autellix_server.gateway.recording import Recording
from autellix_server.gateway.refusal import Refused
from autellix_server.gateway.tenants.scope import scoped_id
from autellix_server.identity import identify
from autellix_server.scheduling.call import Call
from autellix_server.scheduling.shares import TenantStanding
from autellix_server.scheduling.table import ActiveCall, Program, ProgramTable
from autellix_server.stamp import ENDED_HEADER, EndedPrograms, Stamp, encode_ended

_log = logging.getLogger(__name__)
_US = 1_000_000


def new_id() -> str:
    """Return a fresh random program ID."""
    return secrets.token_hex(16)


@dataclass(slots=True)
class Counters:
    """What the gateway has seen since it started.

    Attributes:
        calls: generating calls that were sent to an engine.
        malformed_identity: calls whose identity headers were malformed; each ran as its own program.
        distrusted_bills: bills from the engine that could not be read or belonged to another call.
        estimated: calls without a bill, whose program was charged what the gateway saw of them: their engine is not
            ours, or their client left.
        uncharged: calls that an engine of ours did not bill, and whose program was charged nothing: it died or refused
            them, or their client left before the first byte.
        engine_failures: calls that the engine did not answer, or not to the end.
    """

    calls: int = 0
    malformed_identity: int = 0
    distrusted_bills: int = 0
    estimated: int = 0
    uncharged: int = 0
    engine_failures: int = 0


class CallLedger:
    """Enters calls into the program table and takes them out. One writer: the event loop.

    Args:
        table: the program table.
        clock: seconds, never going back.
        recording: told of calls, `None` when they are not recorded; the table tells it of programs that end.
    """

    def __init__(self, table: ProgramTable, clock: Callable[[], float], recording: Recording | None = None) -> None:
        self.table = table
        self.clock = clock
        self.recording = recording
        self.counters = Counters()

    def identify(self, headers: Mapping[str, str], session: str | None, tenant: str) -> Found:
        """Find out which program a call belongs to.

        Args:
            headers: request headers, in a mapping that ignores case.
            session: that the body names, see `identity.session_in`.
            tenant: whose call it is.

        Raises:
            Refused: its program was cancelled.
        """
        found = identify(headers, new_id, session)
        if found.error is not None:
            self.counters.malformed_identity += 1
            _log.warning("a call runs as its own program: %s", found.error)
        own = found.context.program
        context = replace(found.context, program=scoped_id(tenant, own))
        row = self.table.get(context.program)
        if row is not None and row.cancelled:
            raise Refused(409, "the program was cancelled; open it again to go on", CANCELLED)
        return Found(context, own, found.single_call, is_new=row is None or row.ended_s is not None)

    def arrive(self, found: Found, standing: TenantStanding, arrived_s: float) -> OpenCall:
        """Enter a call.

        Args:
            found: as returned by `identify`.
            standing: where its tenant stands.
            arrived_s: when the request began, on this ledger's clock.
        """
        self.counters.calls += 1
        active = self.table.arrive(found.context, self.clock(), single_call=found.single_call, tenant=standing.name)
        if self.recording is not None:
            self.recording.arrived(active.context, active.arrived_s)
        return OpenCall(self, active, found, standing, arrived_s)

    def complete(self, call: ActiveCall, bill: CallBill | None, now: float) -> None:
        """Take a call out of the table, charged with `bill`; `None` charges nothing."""
        if self.recording is not None and bill is not None:
            self.recording.completed(call.context, bill, now)
        self.table.complete(call, bill, now)

    def end(self, program: ProgramId) -> Program | None:
        """End a program, see `ProgramTable.end`."""
        return self.table.end(program, self.clock())

    def expire(self) -> None:
        """End programs whose lease is over and forget old ones; to be called about once a second."""
        self.table.expire(self.clock())

    def close(self) -> None:
        """Write what is recorded of programs that have not ended; the last thing to be called."""
        if self.recording is not None:
            self.recording.close(row.id for row in self.table)


@dataclass(frozen=True, slots=True)
class Found:
    """Which program a call belongs to.

    Attributes:
        context: who the call is; its program is scoped to the tenant.
        own_program: what the client calls its program.
        single_call: the program is this call alone.
        is_new: the program does not live yet.
    """

    context: CallContext
    own_program: ProgramId
    single_call: bool
    is_new: bool


class OpenCall:
    """One call between its arrival and its bill. Made by `CallLedger.arrive`; must be closed.

    Attributes:
        bill: what its program was charged, `None` until then and if it never is.
    """

    def __init__(
        self, ledger: CallLedger, active: ActiveCall, found: Found, standing: TenantStanding, arrived_s: float
    ) -> None:
        self.bill: CallBill | None = None
        self._ledger = ledger
        self._active = active
        self._found = found
        self._standing = standing
        self._arrived_s = arrived_s
        self._open = True
        self._expects_bill = False

    @property
    def program(self) -> Program:
        """The row of its program."""
        return self._active.program

    def headers(self, secret: bytes, ended: EndedPrograms) -> dict[str, str]:
        """Return the identity headers and the stamp for an engine of ours.

        Args:
            secret: that it shares.
            ended: programs of which it has not been told; some of them are told with this call.
        """
        self._expects_bill = True
        program, call = self._active.context.program, encode_call(self._active.context)
        base_service_us, base_wait_us = round(self._base_service_s * _US), round(self._active.base_wait_s * _US)
        stamp = Stamp(base_service_us, base_wait_us, self._found.single_call, self._standing)
        headers = {PROGRAM_HEADER: program, CALL_HEADER: call, STAMP_HEADER: stamp.encode(secret, program, call)}
        told = ended.take()
        return headers | ({ENDED_HEADER: encode_ended(told, secret)} if told else {})

    def in_line(self, prompt_tokens: int) -> Call:
        """Return the call as a planner orders it.

        Args:
            prompt_tokens: length of its prompt; an estimate will do.
        """
        active = self._active
        return Call(
            active.context,
            active.arrived_s,
            prompt_tokens,
            self._base_service_s,
            active.base_wait_s,
            program_class=active.program.name or "",
            tenant=self._standing,
        )

    @property
    def _base_service_s(self) -> float:
        return 0.0 if self.program.boosted else self._active.base_service_s

    def settle(self, text: bytes, *, moved: bool = False) -> CallBill | None:
        """Charge the engine's bill to the program, and return the bill that the client gets.

        Args:
            text: the engine's bill.
            moved: the call went to another engine than the program's last ones, which had its history.

        Returns:
            The same bill with the gateway's own time added and, of a call that was moved, what was computed again; or
            `None` when it is not believed: it cannot be read, is another call's, or is the second one.
        """
        bill = self._believed(text)
        if bill is None or not self._open:
            return None
        now = self._ledger.clock()
        bill = stretch(bill, round((now - self._arrived_s) * _US))
        if moved:
            again = recomputed_tokens(self.program.history_tokens, bill.cached_tokens)
            bill = replace(bill, recomputed_tokens=bill.recomputed_tokens + again)
        self._complete(bill, now)
        # Clients know their programs by their own names.
        return replace(bill, program=self._found.own_program)

    def estimate(self, engine: str, seen: SeenTimes, usage: Usage | None) -> None:
        """Charge what was seen of a call that its engine has not billed; nothing if it has.

        Args:
            engine: its name.
            seen: when what happened.
            usage: tokens, `None` if the answer did not tell them.
        """
        if not self._open:
            return
        level = self._ledger.table.policy.start_level(self._base_service_s)
        self._ledger.counters.estimated += 1
        bill = estimated_bill(self._active.context, engine, seen, usage, (level, level))
        self._complete(bill, self._ledger.clock())

    def close(self) -> None:
        """Take the call out of the table, uncharged unless it was settled."""
        if self._open:
            self._ledger.counters.uncharged += self._expects_bill
            self._complete(None, self._ledger.clock())

    def _complete(self, bill: CallBill | None, now: float) -> None:
        self._open, self.bill = False, bill
        self._ledger.complete(self._active, bill, now)

    def _believed(self, text: bytes) -> CallBill | None:
        context = self._active.context
        try:
            bill = decode_bill(text)
            if (bill.program, bill.call) != (context.program, context.call):
                raise WireError("time bill belongs to another call")
        except WireError as error:
            self._ledger.counters.distrusted_bills += 1
            _log.warning("a bill from the engine is dropped: %s", error)
            return None
        return bill


def stretch(bill: CallBill, wall_us: int) -> CallBill:
    """Return `bill` with its wall time raised to `wall_us`, the difference counted as other time."""
    more_us = max(0, wall_us - bill.time.wall_us)
    return replace(bill, time=replace(bill.time, other_us=bill.time.other_us + more_us))
