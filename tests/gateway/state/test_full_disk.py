"""A disk that is full or fails: the gateway runs from memory, says so, and is as before when there is room again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from state_world import World, charge

from autellix_sdk.errors import ConfigurationError
from autellix_server.gateway.state.store import StoreFailure
from autellix_server.scheduling.table import TableLimits

SCRIPT = Path(__file__).with_name("script_small_disk.py")
Ask = Callable[[str], dict[str, Any]]


@contextmanager
def small_disk(path: Path, *options: str) -> Iterator[Ask]:
    """Run a gateway whose files the kernel keeps from growing; yields what sends it a command."""
    command = [sys.executable, str(SCRIPT), str(path), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as gateway:

        def ask(line: str) -> dict[str, Any]:
            assert gateway.stdin is not None
            assert gateway.stdout is not None
            gateway.stdin.write(f"{line}\n")
            gateway.stdin.flush()
            answer: dict[str, Any] = json.loads(gateway.stdout.readline())
            return answer

        yield ask
    assert gateway.returncode == 0


@contextmanager
def tiny_file_system(folder: Path) -> Iterator[Path]:
    """Mount a file system of half a megabyte, or skip where that is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(stone: Path) -> None:
    """Make a file that takes all the room there is."""
    with stone.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def programs(path: Path) -> set[str]:
    """Return the programs that a new gateway finds."""
    world = World(path)
    found = {str(row.id) for row in (*world.table, *world.table.ended())}
    world.state.close()
    return found


def test_what_a_failing_disk_would_not_take_is_written_when_it_is_back(tmp_path: Path) -> None:
    """A gateway whose disk fails loses nothing, and recovers by itself."""
    path = tmp_path / "gateway.db"
    with small_disk(path) as ask:
        assert not ask("charge 0 100")["degraded"]
        size = path.stat().st_size + Path(f"{path}-wal").stat().st_size
        ask(f"limit {size}")
        for first in range(100, 500, 100):
            health = ask(f"charge {first} {first + 100}")
        assert health["degraded"]
        assert health["pending"] > 100
        assert "disk" in health["reason"]
        assert ask("commit")["degraded"]
        recovered = ask("limit")
        assert (recovered["degraded"], recovered["reason"], recovered["pending"]) == (False, "", 0)
    assert programs(path) == {f"p{number}" for number in range(500)}


def test_a_gateway_killed_while_its_disk_fails_finds_the_last_commit(tmp_path: Path) -> None:
    """A failed commit leaves no trace in the file."""
    path = tmp_path / "gateway.db"
    with small_disk(path) as ask:
        ask("charge 0 100")
        ask(f"limit {Path(f'{path}-wal').stat().st_size}")
        assert ask("charge 100 5000")["degraded"]
    assert programs(path) == {f"p{number}" for number in range(100)}


def test_a_start_on_a_full_disk_finds_what_is_stored(tmp_path: Path) -> None:
    """Reading takes no room."""
    path = tmp_path / "gateway.db"
    with small_disk(path) as ask:
        ask("charge 0 10")
    with small_disk(path, "--full") as ask:
        assert ask("charge 5 15")["pending"] == 10
        assert ask("limit")["pending"] == 0
    assert programs(path) == {f"p{number}" for number in range(15)}


def test_a_first_start_on_a_full_disk_runs_from_memory_until_there_is_room(tmp_path: Path) -> None:
    """There is nothing to be read, so nothing is lost by starting."""
    path = tmp_path / "gateway.db"
    with small_disk(path, "--full") as ask:
        assert ask("charge 0 10")["degraded"]
        recovered = ask("limit")
        assert (recovered["degraded"], recovered["pending"]) == (False, 0)
    assert programs(path) == {f"p{number}" for number in range(10)}


async def test_a_full_file_system_is_survived_and_its_file_still_read(tmp_path: Path) -> None:
    """Full for good: writing stops, reading does not; room again: everything is stored."""
    with tiny_file_system(tmp_path / "disk") as disk:
        world = World(disk / "gateway.db")
        for number in range(20):
            charge(world.table, f"p{number}", world.now)
        await world.state.commit()
        stone = disk / "stone"
        fill(stone)
        for number in range(2000):
            charge(world.table, f"p{number}", world.now)
        await world.state.commit()
        health = world.state.health
        assert (health.degraded, health.reason, health.pending) == (True, "database or disk is full", 2000)
        world.restart(outage_s=1.0)
        assert {row.id: row.completed for row in world.table} == {f"p{number}": 1 for number in range(20)}
        charge(world.table, "late", world.now)
        await world.state.commit()
        stone.unlink()
        await world.state.commit()
        assert not world.state.health.degraded
        assert world.stored_ids() == {"late"} | {f"p{number}" for number in range(20)}
        world.state.close()


async def test_values_put_while_the_disk_fails_are_stored_afterwards(tmp_path: Path) -> None:
    """The last of each; what was put before a failed commit does not overtake what was put after it."""
    world = World(tmp_path / "gateway.db")
    write = world.state._store.write

    def fail(*_: object) -> None:
        world.state.put("both", "new")
        raise StoreFailure("broken")

    world.state._store.write = fail  # type: ignore[method-assign]
    world.state.put("early", 1)
    world.state.put("both", "old")
    await world.state.commit()
    assert world.state.health.reason == "broken"
    world.state._store.write = write  # type: ignore[method-assign]
    await world.state.commit()
    world.restart()
    assert (world.state.get("early"), world.state.get("both")) == (1, "new")
    world.state.close()


async def test_memory_is_bounded_however_long_the_disk_fails(tmp_path: Path) -> None:
    """Programs that come and go meanwhile are not listed for ever; afterwards file and table agree."""
    world = World(tmp_path / "gateway.db", TableLimits(max_programs=10))
    charge(world.table, "first", world.now)
    await world.state.commit()
    fails = True

    def open_if_it_works() -> bool:
        if fails:
            raise StoreFailure("broken")
        return type(world.state._store).open(world.state._store)

    world.state._store._disconnect()
    world.state._store.open = open_if_it_works  # type: ignore[method-assign]
    for number in range(1000):
        charge(world.table, f"p{number}", world.now)
        if number % 50 == 0:
            await world.state.commit()
        assert world.state.health.pending <= 20
    fails = False
    await world.state.commit()
    assert world.stored_ids() == {row.id for row in (*world.table, *world.table.ended())}
    world.state.close()


async def test_a_file_damaged_while_it_is_open_is_kept_aside_and_everything_written_anew(tmp_path: Path) -> None:
    """The table in memory is the truth; values too."""
    world = World(tmp_path / "gateway.db")
    for number in range(2000):
        charge(world.table, f"p{number}", world.now)
    world.state.put("ratio", 4.5)
    await world.state.commit()
    world.restart()
    connection = world.state._store._connection
    assert connection is not None
    connection.execute("PRAGMA shrink_memory")  # else its pages are in memory
    content = bytearray(world.path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 100] = os.urandom(100)
    world.path.write_bytes(content)
    for _ in range(2):
        charge(world.table, "p7", world.now)
        await world.state.commit()
    assert not world.state.health.degraded
    assert (tmp_path / "gateway.db.aside-1").exists()
    world.restart()
    assert len(world.table) == 2000
    assert (world.row("p7").completed, world.state.get("ratio")) == (3, 4.5)
    world.state.close()


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_taken_away_is_written_anew(tmp_path: Path, replaced: bool) -> None:
    """Somebody empties the cache folder, or puts another file there: what would be lost at the next start is not."""
    world = World(tmp_path / "state" / "gateway.db")
    charge(world.table, "early", world.now)
    await world.state.commit()
    shutil.rmtree(tmp_path / "state")
    if replaced:
        other = World(tmp_path / "state" / "gateway.db")
        charge(other.table, "stranger", other.now)
        await other.state.commit()
        charge(world.table, "late", world.now)
        await world.state.commit()
        assert world.state.health.reason == "the file was removed or replaced"
        await world.state.commit()
        assert "another gateway holds the file" in world.state.health.reason
        other.state.close()
    charge(world.table, "late", world.now)
    for _ in range(2):
        await world.state.commit()
    assert (world.state.health.degraded, world.state.health.pending) == (False, 0)
    assert world.stored_ids() == {"early", "late"}
    world.state.close()
    if replaced:
        assert programs(tmp_path / "state" / "gateway.db.aside-1") == {"stranger"}


async def test_a_disk_that_hangs_shows_while_it_hangs(tmp_path: Path) -> None:
    """No error ever comes, but calls are not stored either."""
    world = World(tmp_path / "gateway.db")
    charge(world.table, "p", world.now)
    assert world.state.health.pending == 1
    seen = []

    def write_slowly(*_: object) -> None:
        world.sleep(12.0)
        seen.append(world.state.health)

    world.state._store.write = write_slowly  # type: ignore[method-assign]
    await world.state.commit()
    assert (seen[0].degraded, seen[0].reason, seen[0].pending) == (True, "the disk has not answered for 12 s", 1)
    assert not world.state.health.degraded
    world.state.close()


def test_what_cannot_be_read_stops_the_start_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To go on without it would be to lose it when there is room again."""
    world = World(tmp_path / "gateway.db")
    charge(world.table, "p", world.now)
    world.state.close()

    def fail(store: object) -> None:
        raise StoreFailure("disk I/O error")

    monkeypatch.setattr(type(world.state._store), "load", fail)
    with pytest.raises(ConfigurationError, match=r"AUTELLIX_STATE.*cannot be read now \(disk I/O error\); see to the"):
        world.begin()
