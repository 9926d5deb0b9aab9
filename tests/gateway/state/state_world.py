"""What tests of the state file share: a table and its state on clocks that tests set, and restarts of both."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.gateway.state.state import GatewayState
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.policies.attained import Plas
from autellix_server.scheduling.table import ActiveCall, Program, ProgramTable, TableLimits

PROGRAMS = 50
"""Programs that a gateway under load has."""


def make_table(state: GatewayState, limits: TableLimits | None = None) -> ProgramTable:
    """Return a table whose changes `state` stores."""
    return ProgramTable(Plas(geometric_levels()), limits, state.history.add, on_change=state.changed)


def arrive(table: ProgramTable, program: str, now: float, **options: Any) -> ActiveCall:
    """Enter a call of a program."""
    return table.arrive(CallContext(ProgramId(program), "s", 0, CallId("0.0"), name="agent"), now, **options)


def complete(table: ProgramTable, call: ActiveCall, now: float, service_s: float = 1.0) -> None:
    """Complete a call, charged with a wait and service."""
    time = TimeSplit({"admission": 500_000}, decode_us=round(service_s * 1e6))
    bill = CallBill(call.context.program, call.context.call, "e0", time, service_us=time.decode_us, output_tokens=7)
    table.complete(call, bill, now)


def charge(table: ProgramTable, program: str, now: float) -> None:
    """Charge a program with a call."""
    complete(table, arrive(table, program, now), now)


class Move(NamedTuple):
    """One thing that happens to a table, `pause_s` after the one before; `number` is for whatever it needs."""

    what: str
    program: ProgramId
    pause_s: float
    number: int


MOVED = [ProgramId(name) for name in "abc"]
"""Programs that moves are about."""

moves = st.builds(
    Move,
    st.sampled_from(["open", "arrive", "complete", "fail", "end", "expire", "pin"]),
    st.sampled_from(MOVED),
    st.floats(0, 15),
    st.integers(0, 2**40),
)


def make(move: Move, table: ProgramTable, flying: list[ActiveCall], now: float) -> None:
    """Make a move; `flying` are the calls in flight."""
    what, program, _, number = move
    row = table.get(program)
    if what == "open":
        table.open(program, f"name {number}", now, tenant=f"t{number}")
    elif what == "arrive":
        context = CallContext(program, "0", number % 7, CallId(f"0.{number}"), name="größe")
        flying.append(table.arrive(context, now, single_call=number % 5 == 0 and row is None, tenant="acme"))
    elif what in ("complete", "fail") and flying:
        call = flying.pop(number % len(flying))
        time = TimeSplit({"batch": number, "admission": 3}, number, 2 * number, 5, 6)
        counts = dict.fromkeys(("prompt_tokens", "cached_tokens", "output_tokens", "preemptions"), number)
        bill = CallBill(call.context.program, call.context.call, f"e{number % 3}", time, service_us=number, **counts)
        table.complete(call, bill if what == "complete" else None, now)
    elif what == "end":
        table.end(program, now)
    elif what == "expire":
        table.expire(now)
    elif what == "pin" and row is not None:
        table.pin(row, f"e{number % 3}")


class World:
    """A table with its state; `restart` ends both without a word and begins them anew.

    Args:
        path: of the state file.
        limits: of the table.
    """

    def __init__(self, path: Path, limits: TableLimits | None = None) -> None:
        self.path = path
        self.limits = limits or TableLimits()
        self.now = 1000.0
        self.wall_s = 1.8e9
        self.begin()

    def begin(self) -> None:
        """Start a table and its state from the file."""
        self.state = GatewayState(self.path, lambda: self.now, lambda: self.wall_s)
        self.table = make_table(self.state, self.limits)
        self.state.restore(self.table, self.now)

    def restart(self, outage_s: float = 0.0, *, now: float = 5.0, step_s: float = 0.0) -> None:
        """Drop table and state as a killed process does, and begin anew.

        Args:
            outage_s: time until then.
            now: where the new process's clock begins.
            step_s: by how much the wall clock was set forward meanwhile.
        """
        self.state.close()
        self.now = now
        self.wall_s += outage_s + step_s
        self.begin()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.wall_s += seconds

    def arrive(self, program: str = "a", **options: Any) -> ActiveCall:
        """Enter a call of a program."""
        return arrive(self.table, program, self.now, **options)

    def complete(self, call: ActiveCall, service_s: float = 1.0) -> None:
        """Complete a call, charged with a wait and service."""
        complete(self.table, call, self.now, service_s)

    def row(self, program: str = "a") -> Program:
        """Return the row of a program that is known."""
        row = self.table.get(ProgramId(program))
        assert row is not None
        return row

    def stored_ids(self) -> set[ProgramId]:
        """Return the programs in the file."""
        return self.state._store.ids()

    def stored(self, question: str = "SELECT id FROM programs ORDER BY id") -> list[Any]:
        """Return the first column of what the file answers, from outside, while nobody holds it."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            return [first for first, *_ in connection.execute(question)]
        finally:
            connection.close()


MOMENTS = ("arrived_s", "active_s", "last_arrival_s", "last_completion_s", "ended_s", "busy_since_s")


def ages(row: Program, now: float) -> dict[str, float | None]:
    """Return how long ago the moments of a row are, in seconds."""
    moments = {name: getattr(row, name) for name in MOMENTS}
    return {name: None if at_s is None else now - at_s for name, at_s in moments.items()}


def account(row: Program) -> dict[str, Any]:
    """Return all that a row says, but for its moments."""
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name not in MOMENTS}
