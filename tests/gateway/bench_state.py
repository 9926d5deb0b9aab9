"""What the state file costs: calls, commits, a start, bytes; and what ``kill -9`` loses.

Run ``python tests/gateway/bench_state.py [--programs 100000] [--kills 10] [--folder FOLDER]``.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "state"))

from state_world import arrive, complete, make_table

from autellix_sdk.wire import ProgramId
from autellix_server.gateway.state.rows import resume, to_stored
from autellix_server.gateway.state.state import GatewayState
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.policies.attained import Plas
from autellix_server.scheduling.table import ProgramTable

CALLS = 50_000
ROUNDS = 15
SCRIPT = Path(__file__).with_name("state") / "script_gateway.py"


def main() -> None:
    """Print one figure a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=100_000, help="rows of the large table")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where the files are made: the disk that is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        hot_path(Path(folder))
        asyncio.run(steady(Path(folder)))
        asyncio.run(large(Path(folder), options.programs))
        restart(Path(folder), options.programs)
        kills(Path(folder), options.kills)


def say(what: str, value: float, unit: str) -> None:
    """Print a figure."""
    print(f"{what:58} {value:10.2f} {unit}")


def hot_path(folder: Path) -> None:
    """What an arrival and a completion cost with changes noted, beside those without; rounds alternate."""
    state = GatewayState(folder / "hot.db")
    noted, plain = make_table(state), ProgramTable(Plas(geometric_levels()))
    state.restore(noted, time.monotonic())
    found: dict[ProgramTable, list[float]] = {noted: [], plain: []}
    for _ in range(ROUNDS):
        for table, seconds in found.items():
            seconds.append(timed(lambda table=table: charges(table)) / CALLS)  # type: ignore[misc]
    cost_us = {table: 1e6 * statistics.median(seconds) for table, seconds in found.items()}
    say("arrive and complete, changes not noted", cost_us[plain], "us")
    say("arrive and complete, changes noted", cost_us[noted], "us")
    added_us = [1e6 * (more - less) for more, less in zip(found[noted], found[plain], strict=True)]
    say("  added, median of pairs", statistics.median(added_us), "us")
    row, clock = next(iter(noted)), resume(None, 0.0, 0.0)
    copied_s = timed(lambda: [to_stored(row, clock) for _ in range(CALLS)])
    say("copying a row for a commit, on the event loop", 1e6 * copied_s / CALLS, "us")
    state.close()


def charges(table: ProgramTable) -> None:
    """Make calls of a thousand programs."""
    for number in range(CALLS):
        complete(table, arrive(table, f"p{number % 1000}", 1.0), 2.0)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


async def steady(folder: Path) -> None:
    """Commits as they are at 200 calls a second."""
    state = GatewayState(folder / "steady.db")
    table = make_table(state)
    state.restore(table, time.monotonic())
    took_ms = []
    for first in range(0, 5000, 100):
        for number in range(first, first + 100):
            complete(table, arrive(table, f"p{number % 1000}", time.monotonic()), time.monotonic())
        began = time.perf_counter()
        await state.commit()
        took_ms.append(1e3 * (time.perf_counter() - began))
    say("a commit of 100 rows, median", statistics.median(took_ms), "ms")
    say("  largest of 50", max(took_ms), "ms")
    state.close()


async def large(folder: Path, programs: int) -> None:
    """Commits of a large table, and how long they keep the event loop from others."""
    state = GatewayState(folder / "large.db")
    table = make_table(state)
    state.restore(table, time.monotonic())
    for number in range(programs):
        complete(table, arrive(table, f"program-{number:026}", time.monotonic()), time.monotonic())
    for what in ("first", "second"):
        stalls = [0.0]
        watching = asyncio.create_task(watch(stalls))
        began = time.perf_counter()
        await state.commit()
        say(f"{what} commit of {programs} rows", time.perf_counter() - began, "s")
        watching.cancel()
        stalls.sort()
        say("  event loop kept from others, longest", 1e3 * stalls[-1], "ms")
        say("  event loop kept from others, P99", 1e3 * stalls[int(0.99 * len(stalls))], "ms")
        say("  log beside the file", size_mb(folder / "large.db-wal"), "MB")
        for number in range(programs):
            state.changed(table.open(ProgramId(f"program-{number:026}"), None, time.monotonic()))
    state.close()
    say(f"file with {programs} programs", size_mb(folder / "large.db"), "MB")


async def watch(stalls: list[float]) -> None:
    """Note how much longer than a millisecond it takes to be woken after one."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        stalls.append(time.perf_counter() - began - 0.001)


def size_mb(path: Path) -> float:
    """Return the size of a file in megabytes."""
    return path.stat().st_size / 1e6


def restart(folder: Path, programs: int) -> None:
    """What a start takes to read all of it."""
    state = GatewayState(folder / "large.db")
    table = make_table(state)
    say(f"start with {programs} programs", timed(lambda: state.restore(table, time.monotonic())), "s")
    assert len(table) == programs
    state.close()


def kills(folder: Path, count: int) -> None:
    """How old the oldest charge is that is lost when a gateway under full load is killed."""
    path, lost_s = folder / "killed.db", [0.0]
    for number in range(count):
        begun: dict[int, float] = {}
        commits = 1 + number % 3
        with subprocess.Popen([sys.executable, str(SCRIPT), str(path)], stdout=subprocess.PIPE, text=True) as gateway:
            assert gateway.stdout is not None
            for line in gateway.stdout:
                kind, counted, at_s = line.split()
                commits -= kind == "stored"
                if kind == "began":
                    begun[int(counted)] = float(at_s)
                if commits <= 0 and len(begun) % 30_000 == 3000 * number:
                    gateway.kill()
        killed_s = max(begun.values())
        state = GatewayState(path)
        table = make_table(state)
        state.restore(table, time.monotonic())
        charges = sum(row.completed for row in table)
        lost_s += [killed_s - at_s for charge, at_s in begun.items() if charge == charges + 1]
        state.close()
    say(f"age of the oldest charge lost, worst of {count} kills", max(lost_s), "s")


if __name__ == "__main__":
    main()
