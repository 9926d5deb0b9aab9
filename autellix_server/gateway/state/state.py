"""Write-behind: what changes in the program table reaches the state file within a second, and no call waits for it."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from autellix_sdk.errors import ConfigurationError
from autellix_sdk.wire import ProgramId
from autellix_server.gateway.state.learned import EndedHistory
from autellix_server.gateway.state.rows import Anchor, FileClock, StoredProgram, from_stored, resume, to_stored
from autellix_server.gateway.state.store import Store, StoreFailure
from autellix_server.scheduling.table import Program, ProgramTable

_log = logging.getLogger(__name__)

COMMIT_PERIOD_S = 0.5
"""Time between two commits: with what a commit takes, a change is stored within a second."""

RETRY_PERIOD_S = 5.0
"""Time between two attempts while the disk fails."""

_ANCHOR_PERIOD_S = 60.0
"""How old the stored moment may become while nothing changes."""

_HUNG_S = 5.0
"""A transaction that takes longer counts as the disk failing."""

_ROWS_AT_ONCE = 4096
"""Rows in one transaction: bounds the memory of a commit and the write-ahead log."""

_ROWS_IN_A_TURN = 64
"""Rows that are copied before the event loop has its turn: a third of a millisecond."""

_THREADS_OF_A_ROW = 64
"""Threads that make a row count as one more of these: a program may have ten thousand."""

_ENDED = "ended:"
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How the state file is.

    Attributes:
        degraded: the disk fails, and the gateway runs from memory until it is back.
        reason: what is wrong with the disk; empty when nothing is.
        pending: programs whose rows changed and are not stored yet.
        commit_age_s: seconds since the last commit, or since the start before the first; it grows up to a minute while
            nothing changes.
    """

    degraded: bool
    reason: str
    pending: int
    commit_age_s: float


class GatewayState:
    """The state file of a gateway and what is to be written to it. One event loop; the file has a thread of its own.

    ::

        state = GatewayState(path)
        table = ProgramTable(policy, limits, on_end, on_change=state.changed)    # on_end: state.history.add
        state.restore(table, clock())                    # before anything else is done with the table
        app.cleanup_ctx.append(state.lifetime)           # before what still changes the table as it ends
        engine_queue.extend(state.history.programs(new_id))      # whenever an engine has started

    While the disk fails everything goes on from memory. What could not be written is written when it is back; lost is
    only what the table forgets by its own limits, and a restart meanwhile finds the last commit.

    Args:
        path: of the file; see `Store`.
        clock: of the table, in seconds, never going back.
        wall: seconds since 1970.

    Attributes:
        history: told of every program that ends; tells an engine that has started.
    """

    writing: asyncio.Task[None]
    """Writes behind, within `lifetime`; when it ends before, nothing is stored any more."""

    _table: ProgramTable
    _file_clock: FileClock

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self.history = EndedHistory()
        self._store = Store(path)
        self._clock = clock
        self._wall = wall
        self._thread = ThreadPoolExecutor(1, "autellix-state")
        self._values: dict[str, str] = {}
        self._changed: set[ProgramId] = set()
        # In order: values are restored in the order in which they were put.
        self._changed_values: dict[str, None] = {}
        self._all_changed = False
        self._writing = 0
        self._working_since_s: float | None = None
        self._committed_s = clock()
        self._trouble = ""

    def restore(self, table: ProgramTable, now: float) -> None:
        """Open the file, and enter what it holds into a table that is empty and was made with `changed`.

        Args:
            table: what is stored from now on.
            now: seconds on the table's clock.

        Raises:
            ConfigurationError: the file is not to be used, see `Store.open`; or it holds something, and the disk does
                not give it.
        """
        self._table = table
        self._file_clock = resume(None, now, self._wall())
        with _without_collections():
            self._restore(table, now)

    def changed(self, row: Program) -> None:
        """Have a row stored with the next commit, as it is then; for `ProgramTable`'s `on_change`."""
        self._changed.add(row.id)
        if len(self._changed) > 2 * self._table.limits.max_programs:
            # More than the table holds: most are forgotten, and what is stored of them is found in the file.
            self._changed.clear()
            self._all_changed = True

    def get(self, name: str) -> Any:
        """Return the value put under `name`; `None` when there is none."""
        return json.loads(self._values.get(name, "null"))

    def put(self, name: str, value: Any) -> None:
        """Keep a small value that was learned.

        Args:
            name: what it is; the names are few.
            value: anything that JSON can say; `None` forgets it.
        """
        self._put(name, None if value is None else json.dumps(value))

    @property
    def health(self) -> StoreHealth:
        """How the file is now."""
        now, reason = self._clock(), self._trouble
        if not reason and self._working_since_s is not None and now - self._working_since_s > _HUNG_S:
            reason = f"the disk has not answered for {now - self._working_since_s:.0f} s"
        return StoreHealth(bool(reason), reason, len(self._changed) + self._writing, now - self._committed_s)

    async def lifetime(self, app: object = None) -> AsyncIterator[None]:
        """Write behind while the application runs, and once more at its end; for its `cleanup_ctx`."""
        stop = asyncio.Event()
        self.writing = asyncio.create_task(self._write_behind(stop))
        try:
            yield
        finally:
            stop.set()
            try:
                await self.writing
            finally:
                self.close()
            if self._trouble:
                _log.error("%d programs are not stored: %s", self.health.pending, self._trouble)

    def close(self) -> None:
        """Close the file as it is; `lifetime` does so at its end."""
        self._thread.shutdown()
        self._store.close()

    async def commit(self) -> None:
        """Store what has changed until now. A failure shows in `health`, and the next commit makes up for it.

        One at a time; within `lifetime` it is called about twice a second.
        """
        try:
            await self._open()
            await self._write_changes()
        except (StoreFailure, ConfigurationError) as error:
            self._degrade(str(error))
        else:
            if self._trouble:
                _log.warning("state file %s is written again", self._store.path)
            self._trouble = ""

    def _restore(self, table: ProgramTable, now: float) -> None:
        try:
            self._store.open()
            contents = self._store.load()
        except StoreFailure as failure:
            if not self._store.vacant:
                self.close()
                raise ConfigurationError(
                    f"--state (or AUTELLIX_STATE) is {str(self._store.path)!r}: what it holds cannot be read now"
                    f" ({failure}); see to the disk, or name another file"
                ) from failure
            self._degrade(str(failure))
            return
        except ConfigurationError:
            self.close()
            raise
        dropped = [name for name, value in contents.values.items() if not self._restored(name, value)]
        if dropped:
            _log.warning("%d learned values in %s are damaged or of another version", len(dropped), self._store.path)
        self._file_clock = clock = resume(contents.anchor, now, self._wall())
        table.restore((from_stored(name, stored, clock) for name, stored in contents.programs.items()), now)
        # A call in flight is stored as one that goes on.
        self._changed.update(name for name, stored in contents.programs.items() if stored.busy_since_s is not None)
        if contents.unreadable:
            _log.error("%d programs in %s are damaged, and forgotten", len(contents.unreadable), self._store.path)
            self._changed.update(contents.unreadable)

    async def _write_behind(self, stop: asyncio.Event) -> None:
        last = False
        while not last:
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_PERIOD_S if self._trouble else COMMIT_PERIOD_S):
                    await stop.wait()
            last = stop.is_set()
            await self.commit()

    async def _open(self) -> None:
        """Take the file up again after a failure."""
        if not self._store.is_open and await self._in_thread(self._store.open):
            self._all_changed = True
            self._changed_values = dict.fromkeys(self._values)
        if self._all_changed:
            self._changed.update(await self._in_thread(self._store.ids))
            self._changed.update(row.id for rows in (self._table, self._table.ended()) for row in rows)
            self._all_changed = False

    async def _write_changes(self) -> None:
        for name, value in self.history.changes():
            self._put(_ENDED + name, value)
        idle = not self._changed and not self._changed_values
        if idle and self._clock() - self._committed_s < _ANCHOR_PERIOD_S:
            return
        rest, self._changed = list(self._changed), set()
        names, self._changed_values = self._changed_values, {}
        values = {name: self._values.get(name) for name in names}
        try:
            while True:
                self._writing = len(rest)
                rows = await self._copy(rest)
                now = self._clock()
                anchor = Anchor(self._file_clock.stored_s(now), self._wall())
                await self._in_thread(partial(self._store.write, rows, values, anchor))
                self._committed_s, values = now, {}
                del rest[len(rest) - len(rows) :]
                if not rest:
                    break
        except BaseException:
            self._changed.update(rest)
            self._changed_values = names | self._changed_values
            raise
        finally:
            self._writing = 0

    async def _copy(self, programs: Sequence[ProgramId]) -> list[tuple[ProgramId, StoredProgram | None]]:
        """Return rows as they are now, `None` for those that are forgotten: the last ones, all that go at once."""
        rows: list[tuple[ProgramId, StoredProgram | None]] = []
        weight = of_earlier_turns = 0
        for program in reversed(programs):
            row = self._table.get(program)
            rows.append((program, None if row is None or row.single_call else to_stored(row, self._file_clock)))
            weight += 1 if row is None else 1 + len(row.threads) // _THREADS_OF_A_ROW
            if weight >= _ROWS_AT_ONCE:
                break
            if weight - of_earlier_turns >= _ROWS_IN_A_TURN:
                of_earlier_turns = weight
                await asyncio.sleep(0)
        return rows

    def _degrade(self, reason: str) -> None:
        if not self._trouble:
            _log.error("state is kept in memory alone: %s", reason)
        self._trouble = reason

    def _put(self, name: str, value: str | None) -> None:
        for names in (self._values, self._changed_values):
            names.pop(name, None)
        self._changed_values[name] = None
        if value is not None:
            self._values[name] = value

    def _restored(self, name: str, value: str) -> bool:
        """Take up a learned value, or drop it when it cannot be read; say which."""
        try:
            if name.startswith(_ENDED):
                self.history.restore(name.removeprefix(_ENDED), value)
            json.loads(value)
        except ValueError:
            self._put(name, None)
            return False
        self._values[name] = value
        return True

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        self._working_since_s = self._clock()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._working_since_s = None


@contextmanager
def _without_collections() -> Iterator[None]:
    """Hold off the garbage collector: it would look at every row again and again, two thirds of a large start."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
