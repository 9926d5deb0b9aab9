"""The table when it is full, and its memory of ended programs."""

from __future__ import annotations

from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.policies.attained import Plas
from autellix_server.scheduling.table import ProgramTable, TableLimits


def context(program: str) -> CallContext:
    """The first call of a program."""
    return CallContext(ProgramId(program), "s", 0, CallId("0"))


def test_a_new_program_is_never_the_one_that_makes_room() -> None:
    """With every other program busy the table grows past its limit rather than lose the call that came."""
    table = ProgramTable(Plas(geometric_levels()), TableLimits(max_programs=1))
    busy = table.arrive(context("a"), now=0.0)
    late = table.arrive(context("b"), now=1.0)
    table.complete(late, None, now=2.0)
    table.complete(busy, None, now=3.0)
    assert {row.id for row in table} == {"a", "b"}


def test_ended_programs_are_listed_until_they_are_forgotten() -> None:
    """The first ended first."""
    table = ProgramTable(Plas(geometric_levels()), TableLimits(tombstone_s=10.0))
    for number, program in enumerate("ab"):
        table.open(ProgramId(program), None, now=0.0)
        table.end(ProgramId(program), now=float(number))
    assert [row.id for row in table.ended()] == ["a", "b"]
    table.expire(now=10.5)
    assert [row.id for row in table.ended()] == ["b"]
