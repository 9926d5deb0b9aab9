"""Rows through the state file: what comes back is what was there, whatever the clocks did meanwhile."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from state_world import MOVED, Move, account, ages, make, moves

from autellix_sdk.wire import ProgramId
from autellix_server.gateway.state.rows import Anchor, decode, encode, from_stored, resume, to_stored
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.policies.attained import Plas
from autellix_server.scheduling.table import ActiveCall, Program, ProgramTable, TableLimits

LIMITS = TableLimits(lease_s=20.0, tombstone_s=60.0)
spans = st.floats(0, 1e6, allow_nan=False)


def play(history: list[Move]) -> tuple[ProgramTable, float]:
    """Return a table after some moves, and the time then."""
    table, now, flying = ProgramTable(Plas(geometric_levels()), LIMITS), 500.0, list[ActiveCall]()
    for move in history:
        now += move.pause_s
        make(move, table, flying, now)
    return table, now


def through_file(rows: list[Program], stopped_s: float, outage_s: float, now: float) -> list[Program]:
    """Store rows and read them again after an outage; the table's clock then shows `now`."""
    clock = resume(Anchor(7e6, 1.8e9), 0.0, 1.8e9)
    stored = {row.id: encode(to_stored(row, clock)) for row in rows}
    again = resume(Anchor(clock.stored_s(stopped_s), 1.9e9), now, 1.9e9 + outage_s)
    return [from_stored(program, decode(text), again) for program, text in stored.items()]


@settings(max_examples=300, deadline=None)
@given(st.lists(moves, max_size=40), st.floats(0, 1e6), st.floats(0, 1e6))
def test_any_history_comes_back_as_it_was(history: list[Move], outage_s: float, now: float) -> None:
    """Idle and ended programs come back exactly; only the outage has passed."""
    table, stopped_s = play(history)
    restored = ProgramTable(Plas(geometric_levels()), LIMITS)
    restored.restore(through_file([*table, *table.ended()], stopped_s, outage_s, now), now)
    for program in MOVED:
        before, after = table.get(program), restored.get(program)
        assert (before is None) == (after is None)
        if before is None or after is None or before.calls:
            continue
        assert account(after) == account(before)
        assert ages(after, now) == pytest.approx(ages(before, stopped_s + outage_s), abs=1e-6)
        assert restored.level_of(after) == table.level_of(before)
        if before.ended_s is not None:
            assert after.bill(now).elapsed_us == pytest.approx(before.bill(0.0).elapsed_us, abs=2)


@settings(deadline=None)
@given(st.lists(moves, max_size=40), spans)
def test_calls_in_flight_are_gone_and_their_programs_idle_with_what_was_charged(
    history: list[Move], outage_s: float
) -> None:
    """A program was busy until the gateway stopped; its lease runs from then, and an announced end comes about."""
    table, stopped_s = play(history)
    busy = [row for row in table if row.calls]
    for before, after in zip(busy, through_file(busy, stopped_s, outage_s, 0.0), strict=True):
        assert (after.calls, after.busy_since_s, after.completed) == (set(), None, before.completed)
        assert (after.service_us, after.service_s, after.time) == (before.service_us, before.service_s, before.time)
        assert after.active_s == pytest.approx(-outage_s, abs=1e-4)
        assert after.bill(-outage_s).tool_us == pytest.approx(before.bill(stopped_s).tool_us, abs=200)
        restored = ProgramTable(Plas(geometric_levels()), LIMITS)
        restored.restore([after], 0.0)
        assert (after.ended_s is not None) == before.ending
        assert restored.get(after.id) is after


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9), spans)
def test_no_step_of_the_wall_clock_makes_a_time_negative_or_immortal(wall_s: float, at_s: float, now: float) -> None:
    """Back or forth by decades: a stored moment is never in the future, so its lease will be over."""
    clock = resume(Anchor(1e9, 0.0), now, wall_s)
    assert clock.restored_s(at_s) <= now + 1e-6
    assert clock.restored_s(1e12) <= now + 1e-6, "a moment ahead of the last commit was not moved there"
    assert clock.stored_s(clock.restored_s(at_s)) == pytest.approx(at_s, abs=1e-6)


def test_every_field_of_a_row_is_stored_or_left_out_on_purpose() -> None:
    """A field that is added to rows has to be stored too."""
    stored = set(dataclasses.asdict(to_stored(Program(ProgramId("a"), None, 0.0, 0.0), resume(None, 0.0, 0.0))))
    assert {field.name for field in dataclasses.fields(Program)} - stored == {"id", "calls", "single_call"}


@pytest.mark.parametrize("damage", [(b"}", b""), (b'"completed":0', b'"completed":-1'), (b"{", b'{"more":1,')])
def test_damaged_rows_are_refused(damage: tuple[bytes, bytes]) -> None:
    """A row is what was written, or none."""
    text = encode(to_stored(Program(ProgramId("a"), None, 0.0, 0.0), resume(None, 0.0, 0.0)))
    with pytest.raises(ValueError):  # noqa: PT011 - any kind of it
        decode(text.replace(*damage))
