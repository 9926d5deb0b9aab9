"""The state file itself: who may have it, what becomes of damaged, foreign and other versions' files, its size."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autellix_sdk.errors import ConfigurationError
from autellix_sdk.wire import ProgramId
from autellix_server.gateway.state.rows import Anchor, StoredProgram, resume, to_stored
from autellix_server.gateway.state.store import MIGRATIONS, Store, StoreFailure
from autellix_server.scheduling.table import Program

ANCHOR = Anchor(12.0, 1.8e9)


def stored(service_us: int = 0) -> StoredProgram:
    """A row with some service."""
    return to_stored(Program(ProgramId("a"), "agent", 1.0, 2.0, service_us=service_us), resume(None, 0.0, 0.0))


def filled(path: Path, programs: int = 3) -> Path:
    """A closed file with programs and a value."""
    store = Store(path)
    assert store.open(), "the file is not new"
    store.write([(ProgramId(f"p{number}"), stored(number)) for number in range(programs)], {"ratio": "4.5"}, ANCHOR)
    store.close()
    return path


def test_what_is_written_is_read_again_and_forgotten_rows_are_gone(tmp_path: Path) -> None:
    """Rows, values and the anchor come back; `None` takes one out."""
    store = Store(filled(tmp_path / "state.db"))
    assert not store.open()
    contents = store.load()
    assert contents.anchor == ANCHOR
    assert contents.programs == {f"p{number}": stored(number) for number in range(3)}
    assert contents.values == {"ratio": "4.5"}
    store.write([(ProgramId("p1"), None), (ProgramId("p2"), stored(2**70))], {"ratio": None, "more": "[]"}, ANCHOR)
    contents = store.load()
    assert contents.programs == {"p0": stored(0), "p2": stored(2**70)}
    assert (contents.values, store.ids()) == ({"more": "[]"}, {"p0", "p2"})
    store.close()


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    """Programs have names that users gave them; a file that others could read is closed to them."""
    (tmp_path / "new").mkdir(mode=0o700)
    (tmp_path / "new" / "state.db").touch(mode=0o644)
    store = Store(tmp_path / "new" / "state.db")
    store.open()
    store.write([(ProgramId("p"), stored())], {}, ANCHOR)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    assert modes == dict.fromkeys(("state.db", "state.db-wal", "state.db.lock"), 0o600)
    store.close()
    store = Store(tmp_path / "newer" / "state.db")
    store.open()
    store.close()
    assert stat.S_IMODE((tmp_path / "newer").stat().st_mode) == 0o700


def test_two_gateways_never_share_a_file(tmp_path: Path) -> None:
    """The second is told which setting to change, by whatever name it knows the file; when the first is gone it may."""
    first, link = Store(filled(tmp_path / "state.db")), tmp_path / "link.db"
    first.open()
    link.symlink_to(tmp_path / "state.db")
    second = Store(link)
    with pytest.raises(ConfigurationError, match=r"--state \(or AUTELLIX_STATE\) is .* another gateway holds the file"):
        second.open()
    first.close()
    assert not second.open()
    second.close()


def test_a_file_that_somebody_looks_at_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """An open SQLite shell would keep the log from being reset."""
    path = filled(tmp_path / "state.db")
    reader = sqlite3.connect(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM programs").fetchone()
    with pytest.raises(ConfigurationError, match="another program has the file open; close it"):
        Store(path).open()
    reader.close()


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A mistyped path costs nobody a database."""
    path = tmp_path / "theirs.db"
    theirs = sqlite3.connect(path)
    theirs.execute("CREATE TABLE precious (id)")
    theirs.close()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="a database of another program; name another file"):
        Store(path).open()
    assert path.read_bytes() == before


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    """Somebody who writes to /dev/null means `none`, and must not find it closed to everybody else."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o644)
    for path in (pipe, tmp_path):
        with pytest.raises(ConfigurationError, match=r"that is no file; name one, or `none` for nowhere"):
            Store(path).open()
    assert stat.S_IMODE(pipe.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_folder_that_cannot_be_written_is_an_error_of_the_setting(tmp_path: Path) -> None:
    """It says which, and why."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"--state .* cannot be opened: File exists"):
        Store(tmp_path / "file" / "state.db").open()


def test_a_later_version_is_refused_and_an_older_one_is_migrated(tmp_path: Path) -> None:
    """Migrations lead from any version on to the last; nobody goes back."""
    path = filled(tmp_path / "state.db")
    later = (
        *MIGRATIONS,
        "ALTER TABLE learned ADD COLUMN at_s REAL",
        "CREATE TABLE more (id); INSERT INTO more VALUES (7)",
    )
    store = Store(path, later)
    assert not store.open()
    assert store.ids() == {"p0", "p1", "p2"}
    store.close()
    store = Store(path)
    with pytest.raises(ConfigurationError, match=r"a later version .* \(schema 3, this one knows 1\); update Autellix"):
        store.open()
    store.close()


def test_a_migration_that_fails_leaves_the_old_version(tmp_path: Path) -> None:
    """All of it or nothing."""
    path = filled(tmp_path / "state.db")
    wrong = Store(path, (*MIGRATIONS, "CREATE TABLE more (id); SELECT * FROM nowhere"))
    with pytest.raises(StoreFailure):
        wrong.open()
    wrong.close()
    store = Store(path)
    assert not store.open()
    assert len(store.ids()) == 3
    store.close()


def no_header(path: Path) -> None:
    """Damage the first page."""
    path.write_bytes(b"\0" * 512 + path.read_bytes()[512:])


def not_sqlite(path: Path) -> None:
    """Put something else into the file."""
    path.write_bytes(b"once upon a time " * 1000)


def cut(path: Path) -> None:
    """Cut off the second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def torn_page(path: Path) -> None:
    """Damage a page in the middle."""
    content = bytearray(path.read_bytes())
    content[8192:8300] = b"\xff" * 108
    path.write_bytes(content)


def no_anchor(path: Path) -> None:
    """Take out what every file has."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DELETE FROM anchor")
    connection.close()


def no_table(path: Path) -> None:
    """Take out a table."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DROP TABLE learned")
    connection.close()


@pytest.mark.parametrize("damage", [no_header, not_sqlite, cut, torn_page, no_anchor, no_table])
def test_a_damaged_file_is_kept_aside_and_a_new_one_begins(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is thrown away, and one line of the log says where it is; a second time as well."""
    path = tmp_path / "state.db"
    for number in (1, 2):
        damage(filled(path, 200))
        before = path.read_bytes()
        caplog.clear()
        store = Store(path)
        assert store.open()
        assert store.load().programs == {}
        store.close()
        aside = tmp_path / f"state.db.aside-{number}"
        assert aside.read_bytes() == before
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert f"is kept as {aside}" in caplog.text
        path.unlink()


def test_a_damaged_row_is_left_out_and_named(tmp_path: Path) -> None:
    """The others are there."""
    path = filled(tmp_path / "state.db")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE programs SET account = CAST(X'7BFF' AS TEXT) WHERE id = 'p1'")
    connection.close()
    store = Store(path)
    store.open()
    contents = store.load()
    assert (list(contents.programs), contents.unreadable) == (["p0", "p2"], ["p1"])
    store.close()


def test_a_row_that_has_no_json_does_not_keep_the_others_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half a character in the name that an engine gave itself, say."""
    store, row = Store(tmp_path / "state.db"), stored()
    store.open()
    store.write([(ProgramId("bad"), replace(row, pin="\ud800")), (ProgramId("good"), row)], {}, ANCHOR)
    assert store.ids() == {"good"}
    assert "program bad cannot be stored" in caplog.text
    store.close()


def test_the_file_shrinks_when_rows_are_forgotten_and_its_log_is_bounded(tmp_path: Path) -> None:
    """Pages go back to the disk over a few commits."""
    store = Store(tmp_path / "state.db")
    store.open()
    names = [ProgramId(f"p{number}") for number in range(20_000)]
    for _ in range(3):
        store.write(((name, stored()) for name in names), {}, ANCHOR)
    full = store.path.stat().st_size
    assert full > 10 << 20
    store.write(((name, None) for name in names), {}, ANCHOR)
    for _ in range(5):
        store.write([(names[0], stored())], {}, ANCHOR)
    assert Path(f"{store.path}-wal").stat().st_size <= 8 << 20
    store.close()
    assert store.path.stat().st_size < full / 20
    assert [path.name for path in tmp_path.iterdir()] == ["state.db", "state.db.lock"]
