"""Rows of the program table as they are stored, and the clock that stored times are on. Pure.

The table's clock is monotonic and starts anew with the process; the wall clock may be stepped at any time. Stored
times are therefore on a clock of the file: it runs with the table's while a gateway runs, so that no step of the wall
clock reaches it, and while none runs it goes on by what the wall clock says, never back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter

from autellix_sdk.bill import TimeSplit
from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.table import Program

Seconds = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class Anchor(NamedTuple):
    """One moment on the clock of the file and on the wall clock, stored with every commit.

    Attributes:
        file_s: seconds on the clock of the file; rows beside it are not newer.
        wall_s: seconds since 1970.
    """

    file_s: float
    wall_s: float


class FileClock(NamedTuple):
    """Converts between the clock of the table and that of the file; made by `resume`.

    Attributes:
        ahead_s: how far the file's clock is ahead of the table's.
        stopped_s: when, on the file's clock, the gateway before this one was last known to run.
    """

    ahead_s: float
    stopped_s: float

    def stored_s(self, at_s: float) -> float:
        """Return a moment of the table's clock on the file's."""
        return at_s + self.ahead_s

    def restored_s(self, stored_s: float) -> float:
        """Return a stored moment on the table's clock; one that lies ahead of the last commit is moved there."""
        return min(stored_s, self.stopped_s) - self.ahead_s


def resume(anchor: Anchor | None, now: float, wall_s: float) -> FileClock:
    """Return the clock of a file that is taken up again.

    Args:
        anchor: the last one stored, `None` in a new file.
        now: seconds on the table's clock.
        wall_s: the same moment on the wall clock, in seconds since 1970. When it is before the anchor the wall clock
            was set back, and no time has passed in between.
    """
    if anchor is None:
        return FileClock(-now, 0.0)
    return FileClock(anchor.file_s + max(0.0, wall_s - anchor.wall_s) - now, anchor.file_s)


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """A row as it is stored: everything but its ID. Fields are those of `Program`, times on the file's clock."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str | None
    tenant: str
    pin: str | None
    paused: bool
    boosted: bool
    cancelled: bool
    arrived_s: Seconds
    active_s: Seconds
    last_arrival_s: Seconds | None
    last_completion_s: Seconds | None
    busy_since_s: Seconds | None
    ended_s: Seconds | None
    ending: bool
    service_s: Positive
    wait_s: Positive
    busy_s: Positive
    dead_s: Positive
    completed: Count
    threads: frozenset[tuple[str, int]]
    engines: frozenset[str]
    time: TimeSplit
    service_us: Count
    history_tokens: Count
    prompt_tokens: Count
    cached_tokens: Count
    output_tokens: Count
    recomputed_tokens: Count
    swapped_tokens: Count
    preemptions: Count


_AS_JSON = TypeAdapter(StoredProgram)


def to_stored(row: Program, clock: FileClock) -> StoredProgram:
    """Return what is stored of a row; later changes of the row do not reach it."""
    ahead_s = clock.ahead_s
    return StoredProgram(
        name=row.name,
        tenant=row.tenant,
        pin=row.pin,
        paused=row.paused,
        boosted=row.boosted,
        cancelled=row.cancelled,
        arrived_s=row.arrived_s + ahead_s,
        active_s=row.active_s + ahead_s,
        last_arrival_s=None if row.last_arrival_s is None else row.last_arrival_s + ahead_s,
        last_completion_s=None if row.last_completion_s is None else row.last_completion_s + ahead_s,
        busy_since_s=None if row.busy_since_s is None else row.busy_since_s + ahead_s,
        ended_s=None if row.ended_s is None else row.ended_s + ahead_s,
        ending=row.ending,
        service_s=row.service_s,
        wait_s=row.wait_s,
        busy_s=row.busy_s,
        dead_s=row.dead_s,
        completed=row.completed,
        threads=frozenset(row.threads),
        engines=frozenset(row.engines),
        time=row.time,
        service_us=row.service_us,
        history_tokens=row.history_tokens,
        prompt_tokens=row.prompt_tokens,
        cached_tokens=row.cached_tokens,
        output_tokens=row.output_tokens,
        recomputed_tokens=row.recomputed_tokens,
        swapped_tokens=row.swapped_tokens,
        preemptions=row.preemptions,
    )


def from_stored(program: ProgramId, stored: StoredProgram, clock: FileClock) -> Program:
    """Return the row of a program after a restart.

    Its calls in flight are gone, with what had been charged: it was busy, and its lease runs, until the gateway was
    last known to run.
    """

    def moment(at_s: float | None) -> float | None:
        return None if at_s is None else clock.restored_s(at_s)

    busy_s, active_s = stored.busy_s, clock.restored_s(stored.active_s)
    if stored.busy_since_s is not None:
        active_s = clock.restored_s(clock.stopped_s)
        busy_s += active_s - clock.restored_s(stored.busy_since_s)
    return Program(
        program,
        stored.name,
        arrived_s=clock.restored_s(stored.arrived_s),
        active_s=active_s,
        service_s=stored.service_s,
        wait_s=stored.wait_s,
        completed=stored.completed,
        threads=set(stored.threads),
        engines=set(stored.engines),
        last_arrival_s=moment(stored.last_arrival_s),
        last_completion_s=moment(stored.last_completion_s),
        ending=stored.ending,
        ended_s=moment(stored.ended_s),
        tenant=stored.tenant,
        pin=stored.pin,
        paused=stored.paused,
        boosted=stored.boosted,
        cancelled=stored.cancelled,
        time=stored.time,
        service_us=stored.service_us,
        history_tokens=stored.history_tokens,
        prompt_tokens=stored.prompt_tokens,
        cached_tokens=stored.cached_tokens,
        output_tokens=stored.output_tokens,
        recomputed_tokens=stored.recomputed_tokens,
        swapped_tokens=stored.swapped_tokens,
        preemptions=stored.preemptions,
        busy_s=busy_s,
        dead_s=stored.dead_s,
    )


def encode(stored: StoredProgram) -> bytes:
    """Return a stored row as JSON."""
    return _AS_JSON.dump_json(stored)


def decode(text: str | bytes) -> StoredProgram:
    """Read what `encode` made.

    Raises:
        ValueError: it is damaged.
    """
    return _AS_JSON.validate_json(text)
