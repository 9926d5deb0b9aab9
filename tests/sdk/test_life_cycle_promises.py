"""What the client promises for a program from its first call to its end, and for the process around it.

What becomes of programs whose process dies is proved against the gateway, in ``tests/gateway/test_client_ends.py``.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from contextlib import nullcontext
from typing import Any

import httpx
import pytest

import autellix_sdk as autellix
from autellix_sdk import _lifecycle, _programs
from autellix_sdk._faults import faults
from autellix_sdk._lifecycle import RENEWAL_S
from autellix_sdk._runtime import runtime
from autellix_sdk.wire import CONTINUE_HEADER, CallId, ProgramId
from tests.sdk.conftest import WAIT_S, Backend, call_here


class Watched:
    """A program that is never looked at."""

    id = ProgramId("p")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


class Clock:
    """The client's clock, which the test turns.

    Attributes:
        s: seconds since the start.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = 0.0
        monkeypatch.setattr(_lifecycle, "monotonic", lambda: self.s)
        monkeypatch.setattr("autellix_sdk._ledger.monotonic_ns", lambda: round(self.s * 1e9))

    def pass_s(self, seconds: float) -> None:
        """Let time pass, and have the client look after its programs as its thread would, second by second."""
        assert runtime.reporter is not None
        for _ in range(round(seconds)):
            self.s += 1
            runtime.reporter._look()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still; no thread of the client's looks at it."""
    monkeypatch.setattr(_lifecycle.Reporter, "_keep_running", lambda _: None)
    return Clock(monkeypatch)


def _ask(backend: Backend) -> None:
    httpx.post(backend.base_url + "/chat/completions", json={})


def test_the_first_call_opens_and_nothing_else_is_sent(backend: Backend) -> None:
    """No round trip comes before it, and none with it."""
    autellix.init(backend.base_url)
    with autellix.program(id="p"):
        assert (backend.calls, backend.ends, backend.renewals) == ([], [], [])
        _ask(backend)
        assert [context.program for context in backend.contexts] == ["p"]
        assert (backend.ends, backend.renewals) == ([], [])


def test_a_program_idle_in_its_scope_has_its_lease_renewed(backend: Backend, clock: Clock) -> None:
    """Every five minutes without a call in flight, from its first call to its end."""
    autellix.init(backend.base_url)
    with autellix.program(id="p"):
        clock.pass_s(RENEWAL_S + 60)
        assert backend.renewals == [], "it has not been opened"
        _ask(backend)
        clock.pass_s(RENEWAL_S - 1)
        assert backend.renewals == []
        clock.pass_s(1)
        assert backend.renewals == ["p"]
        _ask(backend)
        clock.pass_s(RENEWAL_S - 1)
        assert backend.renewals == ["p"]
        clock.pass_s(1 + 2 * RENEWAL_S)
        assert backend.renewals == ["p"] * 4
    clock.pass_s(3 * RENEWAL_S)
    assert backend.renewals == ["p"] * 4


def test_a_scope_that_nobody_leaves_is_left_to_its_lease(backend: Backend, clock: Clock) -> None:
    """After a day without a call; another call is the start of another day."""
    autellix.init(backend.base_url)
    reporter = runtime.reporter
    assert reporter is not None

    def pass_days(days: int) -> int:
        before = len(backend.renewals)
        for _ in range(days * 288):
            clock.s += 300
            reporter._look()
        return len(backend.renewals) - before

    with autellix.program():
        call_here()
        assert pass_days(2) == 287
        call_here()
        assert pass_days(1) == 287


def test_the_lease_is_far_longer_than_the_time_between_renewals() -> None:
    """Two of them may be lost."""
    from autellix_server.scheduling.table import TableLimits

    assert TableLimits().lease_s >= 3 * RENEWAL_S


def test_nobody_else_has_a_lease_renewed(backend: Backend, clock: Clock) -> None:
    """Neither with a call in flight, nor without a scope, nor where another process began the program."""
    autellix.init(backend.base_url)
    with autellix.program(id="calling") as calling:
        call_here()
        calling.ledger.begin((0, CallId("0.0"), ()))
        with autellix.extract({CONTINUE_HEADER: "v1;i=theirs;p="}).attach():
            call_here()
        with autellix.program(id="waiting"):
            call_here()
            clock.pass_s(2 * RENEWAL_S)
    call_here()
    assert autellix.current() is not None
    clock.pass_s(2 * RENEWAL_S)
    assert autellix.current() is None, "it was ended after a minute"
    assert backend.renewals == ["waiting"] * 2


def test_a_program_that_is_carried_away_has_its_lease_renewed(backend: Backend, clock: Clock) -> None:
    """Other processes may be busy with it for long, though this one never called."""
    autellix.init(backend.base_url)
    with autellix.program(id="p"):
        autellix.inject()
        clock.pass_s(RENEWAL_S + 60)
    assert backend.renewals == ["p"]


def test_a_program_goes_on_under_another_backend(backend: Backend, elsewhere: Backend, clock: Clock) -> None:
    """From its first call there; who continues it after its end is looked after as well."""
    autellix.init(elsewhere.base_url)
    with autellix.program(id="p"):
        _ask(elsewhere)
        autellix.init(backend.base_url)
        clock.pass_s(RENEWAL_S)
        _ask(backend)
        clock.pass_s(RENEWAL_S)
    with autellix.program(id="p"):
        clock.pass_s(RENEWAL_S)
        _ask(backend)
        clock.pass_s(RENEWAL_S)
    assert (elsewhere.renewals, backend.renewals) == ([], ["p", "p"])


def test_a_renewal_that_fails_is_counted_and_tried_when_it_is_due(backend: Backend, clock: Clock) -> None:
    """The others wait until they are due again: a backend that hangs delays ends by no more than one of them."""
    backend.end_status = 500
    autellix.init(backend.base_url)
    with autellix.program(), autellix.capture().attach():
        call_here()
        with autellix.program():
            call_here()
            clock.pass_s(RENEWAL_S)
            assert len(backend.renewals) == 1
            assert faults.counts == {"the lease of a program could not be renewed": 1}
            backend.end_status = 200
            clock.pass_s(RENEWAL_S)
    assert len(backend.renewals) == 3


@pytest.mark.parametrize("status", [404, 405, 501])
def test_other_servers_are_asked_once(
    backend: Backend, clock: Clock, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One that has no programs API says so, is told no more, and nothing is logged."""
    backend.end_status = status
    autellix.init(backend.base_url)
    with autellix.program():
        _ask(backend)
        clock.pass_s(3 * RENEWAL_S)
    autellix.shutdown()
    assert (len(backend.renewals), backend.ends, caplog.records) == (1, [], [])


def test_the_thread_looks_by_itself(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to call for a program to be ended once it has idled."""
    for module in (_lifecycle, _programs):
        monkeypatch.setattr(module, "IMPLICIT_IDLE_S", 0.01)
    monkeypatch.setattr(_lifecycle, "_LOOK_EVERY_S", 0.01)
    autellix.init(backend.base_url)
    call_here()
    backend.wait_for_end()
    assert list(backend.ended().values()) == ["ok"]


def test_a_program_that_idles_for_long_makes_no_other_wait(clock: Clock) -> None:
    """The thread sleeps for a minute at a time: whatever is watched meanwhile is due in a minute, and wakes nobody."""
    reporter = _lifecycle.Reporter("http://127.0.0.1:9", None)
    slept = []

    class Wake(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            slept.append(timeout)
            reporter._closing = len(slept) == 2
            clock.s += timeout or 0
            return False

    reporter._wake = Wake()
    reporter._watch(Watched(), RENEWAL_S)
    assert not reporter._wait()
    assert slept == [60.0, 60.0]


def test_user_code_may_end_programs_while_they_are_looked_through(clock: Clock) -> None:
    """The garbage collector runs it anywhere, also between two of them."""
    autellix.init("http://127.0.0.1:9/v1")
    reporter = runtime.reporter
    assert reporter is not None

    class Due(float):
        def __le__(self, other: float) -> bool:
            reporter._watched.clear()  # as ends do that the collector sets off
            return super().__le__(other)

    reporter._watched = {Watched(): Due(1.0) for _ in range(3)}
    reporter._look_s = 0.0
    assert len(reporter._take_due(2.0)) == 3
    assert reporter._watched == {}


def test_no_thread_is_left_after_shutdown(backend: Backend) -> None:
    """Whatever it was doing: ends, watches, programs that are open."""
    for _ in range(3):
        autellix.init(backend.base_url)
        with autellix.watch(lambda _: None), autellix.program():
            _ask(backend)
        with autellix.program():
            _ask(backend)
            ours = _threads_of_ours()
            assert ours
            autellix.shutdown()
            for thread in ours:
                thread.join(WAIT_S)
            assert not _threads_of_ours()


def _threads_of_ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("autellix")]


def test_a_client_without_a_backend_starts_no_thread() -> None:
    """There is nothing to look after."""
    before = set(threading.enumerate())
    autellix.init()
    with autellix.program():
        assert autellix.headers() == {}
    assert set(threading.enumerate()) == before


def test_signals_are_left_alone() -> None:
    """Handlers are the user's, and so is the wakeup descriptor."""
    _run("""
import signal
def state():
    return [signal.getsignal(each) for each in sorted(signal.valid_signals())], signal.set_wakeup_fd(-1)
before = state()
autellix.init("http://127.0.0.1:9/v1")
with autellix.program():
    autellix.headers()
    assert state() == before
autellix.shutdown()
assert state() == before
""")


def test_exit_takes_a_second_at_most(backend: Backend) -> None:
    """A backend that does not answer, and a watch that does not return, are given up."""
    backend.may_answer_end.clear()
    output = _run(f"""
import atexit, threading, time
started = []
atexit.register(lambda: print("took", time.monotonic() - started[0]))
autellix.init({backend.base_url!r})
autellix.watch(lambda _: threading.Event().wait())
for _ in range(3):
    with autellix.program():
        autellix.headers()
started.append(time.monotonic())
""")
    backend.may_answer_end.set()
    assert 0.5 < float(output.rpartition("took ")[2]) < WAIT_S / 2


def test_calls_to_a_backend_that_is_gone_raise_what_they_always_raised() -> None:
    """And nothing else: the scope is left, and the process, as without us."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    output = _run(f"""
import httpx
autellix.init("http://127.0.0.1:{port}/v1")
with autellix.program() as p:
    try:
        httpx.get("http://127.0.0.1:{port}/v1/models")
    except httpx.ConnectError as error:
        print(type(error.__cause__).__module__, p.bill().pending)
""")
    assert output.splitlines()[0] == "httpcore 0"
    assert output.count("\n") == 2, "one line says that the end could not be posted"


def test_shutdown_in_the_middle_of_everything(backend: Backend) -> None:
    """Scopes that are open are left as ever, and the next `init` begins anew."""
    autellix.init(backend.base_url)
    with autellix.program(id="p") as p:
        _ask(backend)
        autellix.shutdown()
        _ask(backend)
    autellix.init(backend.base_url)
    with autellix.program(id="p"):
        _ask(backend)
    autellix.shutdown()
    assert [seen.context is not None for seen in backend.calls] == [True, False, True]
    assert backend.ended() == {p.id: "ok"}


def _run(code: str) -> str:
    """Run code in another process; return what it wrote."""
    code = f"import autellix_sdk as autellix\n{code}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=True,
        timeout=3 * WAIT_S,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return str(done.stdout)


@pytest.mark.parametrize("error", [OSError("no thread today"), KeyboardInterrupt()])
def test_a_thread_that_did_not_start_is_started_by_the_next_call(
    backend: Backend, error: BaseException, monkeypatch: pytest.MonkeyPatch, lenient: None
) -> None:
    """Ctrl-C goes on to the user, whatever else went wrong is counted."""
    autellix.init(backend.base_url)
    with monkeypatch.context() as broken, autellix.program():
        broken.setattr(_lifecycle.threading.Thread, "start", lambda _: (_ for _ in ()).throw(error))
        with pytest.raises(KeyboardInterrupt) if isinstance(error, KeyboardInterrupt) else nullcontext():
            autellix.headers()
    with autellix.program():
        call_here()
    backend.wait_for_end()
    assert len(faults.counts) == isinstance(error, OSError)
