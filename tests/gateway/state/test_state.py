"""What survives a restart of the gateway, and that nothing grows while it runs."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from state_world import Move, World, account, ages, charge, make, moves

from autellix_sdk.errors import ConfigurationError
from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.table import ActiveCall, TableLimits


async def test_programs_survive_a_restart_with_all_they_had(world: World) -> None:
    """Accounts, pins and tenants are there again; live stay live and ended stay ended."""
    for program in ("live", "ended"):
        world.complete(world.arrive(program, tenant="acme"), service_s=3.0)
        world.table.pin(world.row(program), "e1")
    world.table.end(ProgramId("ended"), world.now)
    world.sleep(4.0)
    before = {name: (account(world.row(name)), ages(world.row(name), world.now + 6.0)) for name in ("live", "ended")}
    await world.state.commit()
    world.restart(outage_s=6.0)
    for name, (said, aged) in before.items():
        assert account(world.row(name)) == said
        assert ages(world.row(name), world.now) == pytest.approx(aged, abs=1e-6)
    assert [row.id for row in world.table] == ["live"]
    assert (world.row("live").pin, world.row("live").tenant) == ("e1", "acme")
    assert world.arrive("ended").base_service_s == 3.0, "leaving and coming back bought something"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(moves, st.sampled_from(["commit", "restart"])), max_size=30), st.floats(0, 100))
def test_any_history_with_commits_and_restarts_in_it_is_in_the_file(
    history: list[Move | Literal["commit", "restart"]], outage_s: float
) -> None:
    """After a last commit a restart finds the table as it is, and nothing that it has forgotten."""

    async def play(world: World) -> None:
        flying: list[ActiveCall] = []
        for move in history:
            if move == "restart":
                await world.state.commit()
                world.restart(outage_s)
                flying.clear()
            elif move == "commit":
                await world.state.commit()
            else:
                world.sleep(move.pause_s)
                make(move, world.table, flying, world.now)
        await world.state.commit()
        rows = [row for row in (*world.table, *world.table.ended()) if not row.single_call]
        before = {row.id: (account(row), ages(row, world.now + outage_s)) for row in rows if not row.calls}
        ids = {row.id for row in rows}
        world.restart(outage_s)
        assert world.stored_ids() == {row.id for row in (*world.table, *world.table.ended())} == ids
        for program, (said, aged) in before.items():
            assert account(world.row(program)) == said
            assert ages(world.row(program), world.now) == pytest.approx(aged, abs=1e-6)
        world.state.close()

    with TemporaryDirectory() as folder:
        asyncio.run(
            play(World(Path(folder) / "gateway.db", TableLimits(lease_s=20.0, tombstone_s=60.0, max_programs=2)))
        )


async def test_elapsed_and_tool_time_run_on_while_the_gateway_is_down(world: World) -> None:
    """The user waits then, and no call is in flight."""
    call = world.arrive()
    world.sleep(2.0)
    world.complete(call)
    world.sleep(1.0)
    await world.state.commit()
    world.restart(outage_s=10.0)
    bill = world.row().bill(world.now)
    assert (bill.elapsed_us, bill.tool_us, bill.calls) == (13_000_000, 11_000_000, 1)


async def test_lease_and_tombstone_run_on_while_the_gateway_is_down(world: World) -> None:
    """Each ends when it would have ended."""
    lease_s, tombstone_s = world.limits.lease_s, world.limits.tombstone_s
    world.table.open(ProgramId("dead"), None, world.now)
    world.table.end(ProgramId("dead"), world.now)
    world.sleep(tombstone_s - lease_s)
    charge(world.table, "idle", world.now)
    await world.state.commit()
    world.restart(outage_s=lease_s - 1.0)
    assert world.table.expire(world.now) == []
    assert [row.id for row in world.table.ended()] == ["dead"]
    world.sleep(1.001)
    assert [row.id for row in world.table.expire(world.now)] == ["idle"]
    assert [row.id for row in world.table.ended()] == ["idle"]
    await world.state.commit()
    world.restart()
    assert world.stored_ids() == {"idle"}


@pytest.mark.parametrize("step_s", [-1e9, -3600.0, 3600.0, 1e9])
async def test_a_step_of_the_wall_clock_reaches_nothing_while_the_gateway_runs(world: World, step_s: float) -> None:
    """Rows stored before and after it age alike."""
    world.table.open(ProgramId("before"), None, world.now)
    await world.state.commit()
    world.wall_s += step_s
    world.sleep(5.0)
    world.table.open(ProgramId("after"), None, world.now)
    await world.state.commit()
    world.restart(outage_s=1.0)
    assert world.now - world.row("before").active_s == pytest.approx(6.0)
    assert world.now - world.row("after").active_s == pytest.approx(1.0)


@pytest.mark.parametrize(("step_s", "idle_s"), [(-1e9, 2.0), (-3600.0, 2.0), (1e9, 1e9 + 5.0)])
async def test_a_step_while_the_gateway_is_down_makes_nothing_negative_or_immortal(
    world: World, step_s: float, idle_s: float
) -> None:
    """Set back, no time has passed; set forward, leases are over."""
    world.complete(world.arrive())
    world.sleep(2.0)
    await world.state.commit()
    world.restart(outage_s=3.0, step_s=step_s)
    row, bill = world.row(), world.row().bill(world.now)
    expected = idle_s if step_s > 0 else 2.0
    assert world.now - row.active_s == pytest.approx(expected)
    assert bill.elapsed_us >= bill.tool_us >= 0
    world.sleep(world.limits.lease_s)
    assert [ended.id for ended in world.table.expire(world.now)] == ["a"]


async def test_calls_in_flight_at_a_crash_are_gone_and_stay_gone_at_the_next_one(world: World) -> None:
    """Their program is idle with what was charged; the time between two crashes is not taken for a call's."""
    world.complete(world.arrive(), service_s=1.0)
    world.arrive()
    world.sleep(2.0)
    world.table.open(ProgramId("other"), None, world.now)
    await world.state.commit()
    for outage_s in (10.0, 100.0):
        world.restart(outage_s)
        row = world.row()
        assert (row.calls, row.completed, row.service_s, row.busy_s) == (set(), 1, 1.0, pytest.approx(2.0))
        world.sleep(5.0)
        world.table.open(ProgramId("other"), None, world.now)
        await world.state.commit()
    assert row.bill(world.now).tool_us == 120_000_000
    assert world.table.expire(world.now) == []


async def test_an_announced_end_comes_about_when_its_last_call_is_lost(world: World) -> None:
    """Nobody will announce it again, and policies learn of it."""
    world.complete(world.arrive(), service_s=1.0)
    world.arrive()
    world.table.end(ProgramId("a"), world.now)
    await world.state.commit()
    world.restart(outage_s=1.0)
    assert [row.id for row in world.table.ended()] == ["a"]
    assert [program.service_us for program in world.state.history.programs(lambda: "new")] == [1_000_000]


async def test_anonymous_calls_are_not_stored(world: World) -> None:
    """Their programs end with them, and nothing is left to come back to."""
    world.arrive("anonymous", single_call=True)
    world.complete(world.arrive("another", single_call=True))
    world.arrive("named")
    await world.state.commit()
    world.restart()
    assert world.stored_ids() == {"named"}


async def test_within_its_lifetime_changes_are_written_unasked_and_at_its_end(tmp_path: Path) -> None:
    """The last commit comes after the application's own end."""
    world, written, loop = World(tmp_path / "gateway.db"), asyncio.Event(), asyncio.get_running_loop()
    write = world.state._store.write

    def tell(*batch: Any) -> None:
        write(*batch)
        loop.call_soon_threadsafe(written.set)

    world.state._store.write = tell  # type: ignore[method-assign]
    async with asynccontextmanager(world.state.lifetime)():
        world.arrive("early")
        await written.wait()
        world.complete(world.arrive("late"))
    assert world.stored() == ["early", "late"]


async def test_values_are_kept_until_they_are_taken_back(world: World) -> None:
    """Bytes per token of each model, shares of tenants: anything small."""
    assert world.state.get("ratio") is None
    world.state.put("ratio", {"tiny": 4.25, "größe": None})
    world.state.put("gone", [1])
    await world.state.commit()
    world.state.put("gone", None)
    await world.state.commit()
    world.restart()
    assert world.state.get("ratio") == {"tiny": 4.25, "größe": None}
    assert world.state.get("gone") is None


async def test_damaged_rows_and_values_are_dropped_with_one_line_of_the_log_each(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest is there, and they do not come up again."""
    for program in "abc":
        world.complete(world.arrive(program))
    world.table.end(ProgramId("c"), world.now)
    world.state.put("ratio", 4.5)
    await world.state.commit()
    world.state.close()
    world.stored("UPDATE programs SET account = substr(account, 9) WHERE id < 'c' RETURNING id")
    world.stored("UPDATE learned SET value = '{\"version\": 2}' WHERE name LIKE 'ended:%' RETURNING name")
    world.stored("UPDATE learned SET value = '4.' WHERE name = 'ratio' RETURNING name")
    caplog.clear()
    world.restart()
    assert [row.id for row in (*world.table, *world.table.ended())] == ["c"]
    assert world.state.get("ratio") is None
    assert world.state.history.programs(lambda: "new") == ()
    assert [line.split(" in ")[0] for line in caplog.messages] == ["2 learned values", "2 programs"]
    await world.state.commit()
    caplog.clear()
    world.restart()
    assert caplog.messages == []


async def test_ten_thousand_abandoned_programs_leave_nothing(tmp_path: Path) -> None:
    """All gone by lease, again and again: memory stays as after the first time, the file as after the second."""
    world = World(tmp_path / "gateway.db", TableLimits(lease_s=10.0, tombstone_s=60.0))
    sizes, memory = [], []
    tracemalloc.start()
    for round_number in range(3):
        for number in range(10_000):
            charge(world.table, f"{round_number}-{number}", world.now)
        await world.state.commit()
        sizes.append(world.path.stat().st_size)
        for pause_s in (10.0, 60.0):
            world.sleep(pause_s)
            world.table.expire(world.now)
            await world.state.commit()
        assert (len(world.table), list(world.table.ended()), world.state.health.pending) == (0, [], 0)
        gc.collect()
        memory.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[2] <= 1.1 * sizes[1]
    assert memory[2] - memory[0] < 400_000, "not even the IDs of ten thousand programs"
    world.restart()
    assert world.stored_ids() == set()
    world.state.close()


async def test_a_table_that_is_full_forgets_in_the_file_too(tmp_path: Path) -> None:
    """Beyond the limits the stalest end and the oldest tombstones go, also when a smaller table takes up the file."""
    world = World(tmp_path / "gateway.db", TableLimits(max_programs=3))
    for number in range(10):
        world.sleep(1.0)
        charge(world.table, f"p{number}", world.now)
    await world.state.commit()
    world.limits = TableLimits(max_programs=2)
    world.restart()
    assert world.stored_ids() == {f"p{number}" for number in range(4, 10)}
    await world.state.commit()
    assert [row.id for row in world.table] == ["p8", "p9"]
    assert [row.id for row in world.table.ended()] == ["p6", "p7"]
    assert world.stored_ids() == {"p6", "p7", "p8", "p9"}
    world.state.close()


async def test_a_second_gateway_is_refused_and_the_first_goes_on(world: World) -> None:
    """The message names the setting."""
    with pytest.raises(ConfigurationError, match=r"--state \(or AUTELLIX_STATE\)"):
        World(world.path)
    world.arrive()
    await world.state.commit()
    assert not world.state.health.degraded


async def test_an_idle_gateway_leaves_the_disk_alone_but_for_a_moment_a_minute(world: World) -> None:
    """Disks may sleep, and an outage is measured from a moment at most a minute old."""
    world.arrive()
    await world.state.commit()
    for pause_s, age_s in ((59.0, 59.0), (1.0, 0.0)):
        world.sleep(pause_s)
        await world.state.commit()
        assert world.state.health.commit_age_s == age_s


async def test_rows_of_a_hostile_size_go_a_few_at_a_time(tmp_path: Path) -> None:
    """Neither the memory of a commit nor its log grows with the threads that clients make up."""
    world, written = World(tmp_path / "gateway.db"), []
    for number in range(60):
        row = world.table.open(ProgramId(f"p{number}"), None, world.now)
        row.threads = {("salt", thread) for thread in range(10_000)}
    write = world.state._store.write

    def count(rows: list[Any], *rest: Any) -> None:
        written.append(len(rows))
        write(rows, *rest)

    world.state._store.write = count  # type: ignore[method-assign]
    await world.state.commit()
    assert (sum(written), max(written)) == (60, 27)
    world.restart()
    assert len(world.row("p59").threads) == 10_000
    world.state.close()


async def test_changes_while_a_commit_is_under_way_come_with_the_next(world: World) -> None:
    """Rows are copied in turns with the event loop, each as it is then."""
    names = [ProgramId(f"p{number}") for number in range(1000)]
    for name in names:
        world.table.open(name, None, world.now)
    commit = asyncio.create_task(world.state.commit())
    while not commit.done():
        for name in names:
            world.table.pin(world.row(name), f"e{world.now}")
        world.sleep(1.0)
        await asyncio.sleep(0.001)  # a loop that never rests may keep the interpreter from the thread for a minute
    expected = {name: world.row(name).pin for name in names}
    await world.state.commit()
    world.restart()
    assert {name: world.row(name).pin for name in names} == expected
