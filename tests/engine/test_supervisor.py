"""The supervisor with real processes: ready, refused, dead, restarted, stopped, and nothing left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from script_launch import QUICK, ScriptLaunch, survivors, until

from autellix_server.engine.guardian import live_processes
from autellix_server.engine.supervisor import EngineState, EngineStatus, Supervisor, Timing
from autellix_server.errors import EngineFailure


class Watched:
    """A supervisor, its task and every status it went through."""

    def __init__(self, launch: ScriptLaunch, timing: Timing = QUICK) -> None:
        self.seen: list[EngineStatus] = []
        self.supervisor = Supervisor(launch, launch.folder / "e0.log", timing=timing, on_change=self.seen.append)

    @property
    def states(self) -> list[EngineState]:
        """Its states, repetitions left out."""
        states = [status.state for status in self.seen]
        return [state for before, state in zip([None, *states], states, strict=False) if state != before]


@asynccontextmanager
async def running(launch: ScriptLaunch, timing: Timing = QUICK) -> AsyncIterator[Watched]:
    """Run a supervisor until it is ready, and stop it at the end."""
    watched = Watched(launch, timing)
    task = asyncio.create_task(watched.supervisor.run())
    try:
        await until(lambda: watched.supervisor.status.address is not None or task.done())
        if task.done():
            task.result()
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def run_to_failure(launch: ScriptLaunch, timing: Timing = QUICK) -> tuple[EngineFailure, Watched]:
    """Run a supervisor that is expected to give up."""
    watched = Watched(launch, timing)
    with pytest.raises(EngineFailure) as caught:
        await watched.supervisor.run()
    assert survivors(launch.family()) == set()
    return caught.value, watched


async def test_an_engine_becomes_ready_and_is_stopped_with_all_its_processes(tmp_path: Path) -> None:
    """The status carries address and process; after the stop neither engine nor child lives."""
    launch = ScriptLaunch(tmp_path)
    async with running(launch) as watched:
        status = watched.supervisor.status
        assert status.address is not None
        assert status.address.secret == launch.secret
        assert status.pid in launch.family()
        assert len(survivors(launch.family())) == 2
    assert survivors(launch.family()) == set()
    assert watched.states == [EngineState.STARTING, EngineState.READY, EngineState.STOPPED]


async def test_the_key_is_on_no_command_line_and_its_file_is_gone_when_ready(tmp_path: Path) -> None:
    """Other users of the machine can read process lists."""
    launch = ScriptLaunch(tmp_path)
    async with running(launch) as watched:
        address = watched.supervisor.status.address
        assert address is not None
        for entry in live_processes():
            if entry.pid in launch.family() | {entry.parent for entry in live_processes()}:
                assert address.key.encode() not in Path(f"/proc/{entry.pid}/cmdline").read_bytes()
        command = Path(f"/proc/{watched.supervisor.status.pid}/cmdline").read_bytes().split(b"\0")
        assert not Path(command[command.index(b"--config") + 1].decode()).exists()
        assert (tmp_path / "e0.log").stat().st_mode & 0o777 == 0o600


async def test_the_plugins_own_reason_ends_the_start_at_once(tmp_path: Path) -> None:
    """A line of the plugin's guard is the message, and there is no second try."""
    failure, watched = await run_to_failure(ScriptLaunch(tmp_path, mode="refuse"))
    assert str(failure) == "the engine did not start: refused flag --enable-mixed-chunk: no"
    assert watched.states == [EngineState.STARTING, EngineState.FAILED]


async def test_an_engine_that_keeps_crashing_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    """After as many attempts as allowed, the error quotes the log and says where it is."""
    failure, watched = await run_to_failure(ScriptLaunch(tmp_path, mode="crash"), replace(QUICK, attempts=3))
    assert "exited with status 3 before it was ready" in str(failure)
    assert "the weights are gone" in str(failure)
    assert str(tmp_path / "e0.log") in str(failure)
    assert watched.supervisor.status.restarts == 2


async def test_earlier_logs_are_kept(tmp_path: Path) -> None:
    """Each start has its own log; the one before it gets a number."""
    await run_to_failure(ScriptLaunch(tmp_path, mode="crash"))
    assert sorted(path.name for path in tmp_path.glob("e0.log*")) == ["e0.log", "e0.log.1"]
    assert "the weights are gone" in (tmp_path / "e0.log.1").read_text()


async def test_an_engine_without_our_marker_is_not_trusted(tmp_path: Path) -> None:
    """SGLang starts without a plugin that failed to load; that is noticed."""
    failure, _ = await run_to_failure(ScriptLaunch(tmp_path, mode="unmarked"))
    assert str(failure) == "the Autellix plugin is not at work in the engine; run `autellix engine install`"


async def test_with_the_policy_off_no_marker_is_asked_for_and_no_secret_shared(tmp_path: Path) -> None:
    """The stock engine is served as it is."""
    async with running(ScriptLaunch(tmp_path, mode="unmarked", policy="off")) as watched:
        address = watched.supervisor.status.address
        assert address is not None
        assert address.secret is None


async def test_an_engine_that_never_answers_fails_after_the_start_limit(tmp_path: Path) -> None:
    """It is stopped, not waited for."""
    failure, _ = await run_to_failure(ScriptLaunch(tmp_path, mode="silent"), replace(QUICK, start_limit_s=1.0))
    assert "was not ready after 1 s" in str(failure)


async def test_an_engine_that_is_condemned_is_started_again(tmp_path: Path) -> None:
    """It is stopped first, with all its processes; the reason is announced."""
    launch = ScriptLaunch(tmp_path)
    async with running(launch) as watched:
        first, family = watched.supervisor.status.address, launch.family()
        watched.supervisor.condemn("gave no sign of life for 60 s")
        await until(lambda: watched.supervisor.status.address not in (None, first))
        assert survivors(family) == set()
        assert watched.supervisor.status.restarts == 1
    assert any("the engine gave no sign of life for 60 s" in status.detail for status in watched.seen)


async def test_an_engine_that_dies_is_started_again(tmp_path: Path) -> None:
    """With a new port and a new key, after a wait that is announced."""
    launch = ScriptLaunch(tmp_path)
    async with running(launch) as watched:
        first, pid = watched.supervisor.status.address, watched.supervisor.status.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: watched.supervisor.status.address not in (None, first))
        assert watched.supervisor.status.restarts == 1
        assert "exited with status 137" in next(s for s in watched.seen if s.state is EngineState.RESTARTING).detail
        assert len(survivors(launch.family())) == 2
    assert survivors(launch.family()) == set()


async def test_an_engine_that_was_ready_once_is_not_given_up(tmp_path: Path) -> None:
    """What keeps it from starting again, such as a full disk or memory that is not free yet, may pass."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    launch = ScriptLaunch(tmp_path, python=python)
    async with running(launch, replace(QUICK, attempts=1)) as watched:
        first, pid = watched.supervisor.status.address, watched.supervisor.status.pid
        assert pid is not None
        python.unlink()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: "the engine cannot be started: No such file" in watched.supervisor.status.detail)
        python.symlink_to(sys.executable)
        await until(lambda: watched.supervisor.status.address not in (None, first))


async def test_an_engine_that_cannot_be_watched_for_a_moment_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway whose streams have taken every file descriptor must not lose its engine for that."""
    refusals = [OSError(errno.EMFILE, "Too many open files")]

    async def until_ready(*args: object) -> dict[str, Any]:
        raise refusals.pop()

    launch, ready = ScriptLaunch(tmp_path), Supervisor._until_ready
    monkeypatch.setattr(Supervisor, "_until_ready", lambda *args: until_ready(*args) if refusals else ready(*args))
    async with running(launch) as watched:
        assert watched.supervisor.status.restarts == 1
    assert any("cannot be watched: [Errno 24] Too many open files" in status.detail for status in watched.seen)
    assert survivors(launch.family()) == set()


async def test_killing_the_guardian_leaves_nothing_and_restarts(tmp_path: Path) -> None:
    """The engine dies with its guardian; what it left is found by its session."""
    launch = ScriptLaunch(tmp_path)
    async with running(launch) as watched:
        first = watched.supervisor.status
        guardian = next(entry.parent for entry in live_processes() if entry.pid == first.pid)
        old_family = launch.family()
        os.kill(guardian, signal.SIGKILL)
        await until(lambda: watched.supervisor.status.address not in (None, first.address))
        assert survivors(old_family) == set()


@pytest.mark.parametrize("mode", ["stubborn", "leaves-session"])
async def test_processes_that_ignore_sigterm_or_leave_the_session_are_killed(tmp_path: Path, mode: str) -> None:
    """Engine, child and grandchild are gone when the stop returns."""
    launch = ScriptLaunch(tmp_path, mode=mode)
    async with running(launch):
        assert len(survivors(launch.family())) == 3
    assert survivors(launch.family()) == set()


async def test_what_a_dead_engine_orphaned_is_killed(tmp_path: Path) -> None:
    """The guardian adopts the orphans and ends them before the supervisor hears of the death."""
    launch = ScriptLaunch(tmp_path, mode="orphans")
    failure, _ = await run_to_failure(launch)
    assert "status 5" in str(failure)
    assert len(launch.family()) == 4


GATEWAY = """
import asyncio, sys
from pathlib import Path
sys.path.append(sys.argv[1])
from script_launch import QUICK, ScriptLaunch
from autellix_server.engine.supervisor import Supervisor
folder = Path(sys.argv[2])
show = lambda status: print(status.state, flush=True)
asyncio.run(Supervisor(ScriptLaunch(folder, mode=sys.argv[3]), folder / "e0.log", timing=QUICK, on_change=show).run())
"""


@pytest.mark.parametrize("mode", ["stubborn", "silent"])
async def test_killing_the_gateway_leaves_nothing(tmp_path: Path, mode: str) -> None:
    """SIGKILL to the process that holds the supervisor ends the engine, starting or ready, and removes its key."""
    launch = ScriptLaunch(tmp_path, mode=mode)
    here = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", GATEWAY, here, str(tmp_path), mode],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
    ) as gateway:
        assert gateway.stdout is not None
        await until(launch.family)
        if mode == "stubborn":
            await until(lambda: "ready" in (gateway.stdout.readline() if gateway.stdout else ""))
        guardians = {entry.parent for entry in live_processes() if entry.pid in launch.family()} - {gateway.pid}
        gateway.kill()
    await until(lambda: survivors(launch.family() | guardians) == set())
    assert list(tmp_path.glob("*.yaml")) == []
