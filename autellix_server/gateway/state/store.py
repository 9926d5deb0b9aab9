"""The state file: an SQLite database of stored rows and learned values, held by one gateway.

Choices, and why:

- ``synchronous=FULL``: every commit is flushed. It costs the writer thread a flush twice a second and a call nothing,
  and then a power cut loses no more than ``kill -9`` does: what changed since the last commit. That holds as far as
  the disk tells the truth about flushing.
- ``locking_mode=EXCLUSIVE``: nobody else can keep the write-ahead log from being reset, so its size is bounded; and
  its index is in memory rather than in a mapped file, whose pages a full disk could take away under us. A gateway has
  to be stopped before its file is looked at.
- A row is one JSON text, so that a new field is no migration of columns and integers have no largest value.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from autellix_sdk.errors import ConfigurationError
from autellix_sdk.wire import ProgramId
from autellix_server.errors import ServerError
from autellix_server.gateway.state.rows import Anchor, StoredProgram, decode, encode

_log = logging.getLogger(__name__)

MIGRATIONS = (
    """
    CREATE TABLE programs (id TEXT PRIMARY KEY, account TEXT NOT NULL);
    CREATE TABLE learned (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE anchor (only INTEGER PRIMARY KEY CHECK (only = 1), file_s REAL NOT NULL, wall_s REAL NOT NULL);
    INSERT INTO anchor VALUES (1, 0, 0);
    """,
)
"""Statements that lead from each version of the schema to the next; the first make it. The version is their number."""

_APPLICATION_ID = 0x4175746C  # "Autl": tells our files from other programs'
_BUSY_S = 1.0
_WAL_LIMIT_BYTES = 8 << 20
_FREE_SHARE = 4
_VACUUM_PAGES = 2048
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


class StoreFailure(ServerError):
    """The disk would not take or give what is stored; it may later. The message has the reason alone."""


class _Damaged(Exception):
    """The file is not what we wrote."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds.

    Attributes:
        anchor: stored with the last commit; `None` in a new file.
        programs: stored rows.
        values: learned values as JSON, the one written longest ago first.
        unreadable: programs whose rows are damaged and left out.
    """

    anchor: Anchor | None
    programs: Mapping[ProgramId, StoredProgram] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    unreadable: Sequence[ProgramId] = ()


class Store:
    """The file of one gateway. One thread at a time.

    A failure closes the file, so that nothing is built on a connection in doubt; `open` takes it up again, or makes
    a new one where it is gone. The lock on it is held from the first `open` to `close`.

    Args:
        path: of the file; missing folders are made. ``.lock``, ``-wal`` and ``.aside-N`` are added to its name for
            the files beside it.
        migrations: see `MIGRATIONS`.
    """

    def __init__(self, path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
        self.path = path.resolve()
        self._migrations = migrations
        self._lock: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._replaced = False
        self._checked = False
        self.vacant = False
        """Whether the file held nothing when it was last opened, or that was tried."""

    @property
    def is_open(self) -> bool:
        """Whether rows can be written without opening the file first."""
        return self._connection is not None

    def open(self) -> bool:
        """Open the file, made if there is none.

        One that is damaged, or that took the place of the one that was open, is moved aside, which is logged.

        Returns:
            Whether the file is new, so that everything has to be written.

        Raises:
            ConfigurationError: another gateway holds the file, a later version wrote it, or it is not ours to open.
            StoreFailure: the disk would not have it now.
        """
        try:
            if self.path.exists() and not self.path.is_file():
                raise self._refusal("that is no file; name one, or `none` for nowhere")
            self.vacant = not self.path.exists() or not self.path.stat().st_size
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = self._take_lock()
            if self._replaced and not self.vacant:
                self._move_aside("it is not the one that was open")
            self._replaced = False
            try:
                self._connect()
            except _Damaged as error:
                self._move_aside(f"it is damaged: {error}")
                self._connect()
        except OSError as error:
            if error.errno in _DISK_TROUBLE:
                raise StoreFailure(error.strerror or str(error)) from error
            raise self._refusal(f"the file cannot be opened: {error.strerror or error}") from error
        return self.vacant

    def load(self) -> Contents:
        """Return everything stored.

        Raises:
            StoreFailure: the disk would not give it.
        """
        with self._errors() as connection:
            file_s, wall_s = connection.execute("SELECT file_s, wall_s FROM anchor").fetchone()
            values = dict(connection.execute("SELECT name, value FROM learned ORDER BY rowid"))
            programs, unreadable = {}, []
            for name, account in connection.execute("SELECT id, account FROM programs"):
                try:
                    programs[ProgramId(name)] = decode(account)
                except ValueError:
                    unreadable.append(ProgramId(name))
        return Contents(Anchor(file_s, wall_s) if wall_s else None, programs, values, unreadable)

    def ids(self) -> set[ProgramId]:
        """Return the programs stored.

        Raises:
            StoreFailure: the disk would not give them.
        """
        with self._errors() as connection:
            return {ProgramId(name) for (name,) in connection.execute("SELECT id FROM programs")}

    def write(
        self,
        programs: Iterable[tuple[ProgramId, StoredProgram | None]],
        values: Mapping[str, str | None],
        anchor: Anchor,
    ) -> None:
        """Store rows and values, all or nothing, and flush them to the disk.

        Args:
            programs: rows, `None` for one that is forgotten.
            values: learned values as JSON, `None` for one that is forgotten.
            anchor: a moment that no row is newer than.

        Raises:
            StoreFailure: the disk would not have it, or the file is not there any more; nothing has changed, and the
                file is closed.
        """
        programs = list(programs)
        with self._errors() as connection:
            if not self._in_place():
                # What is written would be gone with the process, and a lock that nobody sees keeps nobody out.
                self.close()
                self._replaced = True
                raise StoreFailure("the file was removed or replaced")
            connection.execute("BEGIN IMMEDIATE")
            # One statement for all rows: each gives the interpreter away and waits for it once, up to 5 ms beside a
            # busy event loop.
            connection.execute(
                "INSERT INTO programs SELECT value ->> 0, value ->> 1 FROM json_each(?) WHERE true "
                "ON CONFLICT (id) DO UPDATE SET account = excluded.account",
                (json.dumps(list(_encoded(programs))),),
            )
            connection.execute(
                "DELETE FROM programs WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps([program for program, row in programs if row is None]),),
            )
            for name, value in values.items():
                if value is None:
                    connection.execute("DELETE FROM learned WHERE name = ?", (name,))
                else:
                    connection.execute("INSERT OR REPLACE INTO learned VALUES (?, ?)", (name, value))
            connection.execute("UPDATE anchor SET file_s = ?, wall_s = ?", anchor)
            connection.execute("COMMIT")
            _compact(connection)

    def close(self) -> None:
        """Close the file and let others have it; closing it twice changes nothing."""
        self._disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> int:
        # A file of its own: SQLite loses its locks when somebody in the process closes another handle of the database.
        descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise self._refusal("another gateway holds the file; stop it, or name another file for this one") from error
        return descriptor

    def _connect(self) -> None:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        self.path.chmod(0o600)
        self._inode = self.path.stat().st_ino
        try:
            connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._connection = connection
            # Damaged text is for whoever reads it to refuse.
            connection.text_factory = partial(str, encoding="utf-8", errors="replace")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            version = self._version(connection)
            self.vacant = version == 0
            if self.vacant:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            elif not self._checked:
                _check(connection)
            self._checked = True
            # Of these nothing writes to a file of this version, so that it can be read on a full disk.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
            self._migrate(connection, version)
        except sqlite3.Error as error:
            self._disconnect()
            if _code(error) in _DAMAGE:
                raise _Damaged(str(error)) from error
            if _code(error) == sqlite3.SQLITE_BUSY:
                raise self._refusal("another program has the file open; close it") from error
            raise StoreFailure(str(error)) from error
        except BaseException:
            self._disconnect()
            raise

    def _version(self, connection: sqlite3.Connection) -> int:
        """Return the version of the schema, 0 for an empty file; refuse what is another program's or a later one's."""
        application, version, tables = (
            connection.execute(question).fetchone()[0]
            for question in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
        )
        if tables and application != _APPLICATION_ID:
            raise self._refusal("the file is a database of another program; name another file")
        if version > len(self._migrations):
            schemas = f"schema {version}, this one knows {len(self._migrations)}"
            raise self._refusal(
                f"a later version of Autellix wrote the file ({schemas}); update Autellix, or name another file"
            )
        return int(version)

    def _migrate(self, connection: sqlite3.Connection, version: int) -> None:
        for statements in self._migrations[version:]:
            version += 1
            marks = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {version}"
            connection.executescript(f"BEGIN IMMEDIATE; {statements}; {marks}; COMMIT")

    def _in_place(self) -> bool:
        """Return whether the path still leads to the file that is open."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    @contextmanager
    def _errors(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection; when SQLite fails, close the file, and have it checked if it may be damaged."""
        if self._connection is None:
            raise StoreFailure("the file is closed")
        try:
            yield self._connection
        except sqlite3.Error as error:
            self._checked = _code(error) not in _DAMAGE
            self._disconnect()
            raise StoreFailure(str(error)) from error

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _move_aside(self, reason: str) -> None:
        number = 1
        while (aside := Path(f"{self.path}.aside-{number}")).exists():
            number += 1
        for suffix in ("-wal", ""):
            with suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        self._checked = False
        _log.error("state file %s is kept as %s, and a new one begins: %s", self.path, aside, reason)

    def _refusal(self, reason: str) -> ConfigurationError:
        return ConfigurationError(f"--state (or AUTELLIX_STATE) is {str(self.path)!r}: {reason}")


def _encoded(programs: Iterable[tuple[ProgramId, StoredProgram | None]]) -> Iterator[tuple[ProgramId, str]]:
    """Return the rows that are to be kept, as JSON; one that has no JSON must not keep the others out."""
    for program, row in programs:
        if row is not None:
            try:
                yield program, encode(row).decode()
            except ValueError as error:
                _log.error("program %s cannot be stored: %s", program, error)


def _check(connection: sqlite3.Connection) -> None:
    """Raise `_Damaged` unless every page of the file is in order, and what must be there is."""
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found == "ok" and connection.execute("SELECT count(*) FROM anchor").fetchone() != (1,):
            found = "no anchor"
        for table in ("programs", "learned"):
            connection.execute(f"SELECT 1 FROM {table} LIMIT 1")
    except sqlite3.OperationalError as error:
        if _code(error) != sqlite3.SQLITE_ERROR:
            raise
        found = str(error)
    if found != "ok":
        raise _Damaged(found)


def _compact(connection: sqlite3.Connection) -> None:
    """Give pages back to the disk, a few at a time, when much of the file is free."""
    free, pages = (connection.execute(f"PRAGMA {count}").fetchone()[0] for count in ("freelist_count", "page_count"))
    if free * _FREE_SHARE > pages:
        # Each step gives back a page, and only a script is stepped to its end.
        connection.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")


def _code(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code, `None` for an error of the Python module itself."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
