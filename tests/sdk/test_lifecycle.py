"""The end of programs: posted in the background, in batches, never in the user's way; and the bill that comes back."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import httpx
import openai
import pytest

import autellix_sdk as autellix
from autellix_sdk import _lifecycle, _programs
from autellix_sdk._faults import faults
from autellix_sdk._ledger import Ledger
from autellix_sdk._lifecycle import Reporter
from autellix_sdk._runtime import runtime
from autellix_sdk._strands import Job, fork_job
from autellix_sdk.bill import ProgramBill
from autellix_sdk.wire import ProgramId
from tests.sdk.conftest import WAIT_S, Backend, program_bill

QUESTION: Any = {"model": "m", "messages": [{"role": "user", "content": "is it?"}]}


class FakeClock:
    """The reporter's clock, which the test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = 0.0
        monkeypatch.setattr(_lifecycle, "monotonic", lambda: self.s)
        monkeypatch.setattr(FakeProgram, "clock", self)


class FakeProgram:
    """A program that counts what it is asked and told, and sees that no lock is held meanwhile."""

    clock: FakeClock | None = None

    def __init__(self, reporter: Reporter) -> None:
        self.id = ProgramId("p")
        self.asked = self.settled = 0
        self.ended = False
        self.idle_since_s = 0.0 if self.clock is None else self.clock.s
        self._reporter = reporter

    def settle(self, _: ProgramBill | None) -> bool:
        """Count."""
        assert not self._reporter._wake._is_owned()  # type: ignore[attr-defined]
        self.settled += 1
        return True

    def bill(self) -> ProgramBill:
        """Return one that is easy to recognise."""
        return program_bill(self.id)

    def end_if_idle(self, limit_s: float) -> float:
        """Do nothing: no scope was forgotten."""
        return 0.0

    def look_after(self, _: Callable[[Any], None]) -> float:
        """End after a minute."""
        assert self.clock is not None
        assert not self._reporter._wake._is_owned()  # type: ignore[attr-defined]
        self.asked += 1
        left_s = self.idle_since_s + 60 - self.clock.s
        self.ended = left_s <= 0
        return max(0.0, left_s)


def _ask(backend: Backend) -> None:
    httpx.post(backend.base_url + "/chat/completions", json=QUESTION)


def _let_a_minute_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the reporter look at every program that it watches, as it would after a minute without a call."""
    reporter = runtime.reporter
    assert reporter is not None
    with monkeypatch.context() as patch:
        patch.setattr(_lifecycle, "monotonic", lambda: monotonic() + 61)
        patch.setattr(Ledger, "idle_s", lambda _: 61.0)
        reporter._look()


def test_the_end_is_posted_with_its_status_and_key(backend: Backend) -> None:
    """A scope that was left well or by an error; programs without a call are not mentioned."""
    autellix.init(backend.base_url, api_key="secret")
    with autellix.program() as good:
        _ask(backend)
    with contextlib.suppress(LookupError), autellix.program() as bad:
        _ask(backend)
        raise LookupError
    with autellix.program() as unused:
        pass
    autellix.shutdown()
    assert backend.ended() == {good.id: "ok", bad.id: "error"}
    assert backend.ends[0].path == "/autellix/v1/programs/end"
    assert backend.ends[0].headers["authorization"] == "Bearer secret"
    assert unused.bill(WAIT_S).calls == 0


def test_ends_that_pile_up_go_in_one_batch(backend: Backend) -> None:
    """While one post is on its way, later ends wait for each other."""
    autellix.init(backend.base_url)
    backend.may_answer_end.clear()
    for number in range(4):
        with autellix.program(id=f"p{number}"):
            _ask(backend)
        if number == 0:
            backend.wait_for_end()
    backend.may_answer_end.set()
    autellix.shutdown()
    assert [seen.body.count(b'"id"') for seen in backend.ends] == [1, 3]
    assert "authorization" not in backend.ends[0].headers


def test_a_plain_call_is_billed_at_once(backend: Backend) -> None:
    """While the program runs, its bill is the sum over the calls that returned."""
    autellix.init(backend.base_url)
    with autellix.program("plain") as p:
        _ask(backend)
        _ask(backend)
        bill = p.bill(wait_s=WAIT_S)
    assert (bill.program, bill.name, bill.calls, bill.pending, bill.threads) == (p.id, "plain", 2, 0, 1)
    assert (bill.time.wall_us, bill.service_us, bill.output_tokens) == (1300, 1000, 4)
    assert 0 < bill.tool_us < bill.elapsed_us


def test_streamed_calls_are_pending_until_the_end_is_acknowledged(backend: Backend) -> None:
    """Then the server's bill of the whole program replaces the client's."""
    backend.bill = program_bill
    autellix.init(backend.base_url)
    with openai.OpenAI(base_url=backend.base_url, api_key="key") as client, autellix.program() as p:
        with client.chat.completions.create(**QUESTION, stream=True) as stream:
            assert len(list(stream)) == 3
        _ask(backend)
        assert (p.bill().calls, p.bill().pending) == (1, 1)
    assert p.bill(wait_s=WAIT_S) == program_bill(p.id)


def test_a_call_after_the_end_reopens_the_program(backend: Backend) -> None:
    """A child that outlives the scope goes on in its program, whose final bill is then out of date."""
    backend.bill = program_bill
    autellix.init(backend.base_url)
    go_on, scope_left = threading.Event(), threading.Event()

    def child() -> None:
        _ask(backend)
        go_on.set()
        assert scope_left.wait(WAIT_S)
        _ask(backend)

    with autellix.program() as p:
        thread = threading.Thread(target=child)
        thread.start()
        assert go_on.wait(WAIT_S)
    assert p.bill(WAIT_S).calls == 5
    scope_left.set()
    thread.join(WAIT_S)
    assert p.bill().calls == 2
    assert [context.program for context in backend.contexts] == [p.id, p.id]


def test_another_server_without_the_endpoint_is_left_alone(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """A 404 on the URL turns posting off, without a word; waiting for a bill does not hang."""
    backend.end_status = 404
    autellix.init(backend.base_url)
    for _ in range(3):
        with autellix.program() as p:
            _ask(backend)
        assert p.bill(WAIT_S).calls == 1
    assert len(backend.ends) == 1
    assert caplog.records == []


@pytest.mark.parametrize("status", [401, 307, 500])
def test_failures_are_counted_and_logged_once(backend: Backend, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal is no reason to raise, to stop, or to follow a redirect with the key."""
    backend.end_status = status
    autellix.init(backend.base_url, api_key="secret")
    for _ in range(2):
        with autellix.program() as p:
            _ask(backend)
        assert p.bill(WAIT_S).calls == 1
    assert (len(backend.ends), list(faults.counts.values())) == (2, [2])
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text


def test_a_backend_that_is_gone_costs_nothing(lenient: None) -> None:
    """Connection refused is counted; the scope is left without delay or error."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    autellix.init(f"http://127.0.0.1:{port}/v1")
    with autellix.program() as p:
        autellix.headers()
    assert p.bill(WAIT_S).pending == 1
    assert list(faults.counts.values()) == [1]


@pytest.mark.parametrize("bill", [{"program": "x"}, {"nonsense": 1}])
def test_unreadable_bills_are_counted(backend: Backend, bill: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own bill stands."""
    monkeypatch.setattr(backend, "bill", lambda _: type("Bad", (), {"to_json": lambda _: bill})())
    autellix.init(backend.base_url)
    with autellix.program() as p:
        _ask(backend)
    assert p.bill(WAIT_S).calls == 1
    assert list(faults.counts) == ["a program's time bill could not be read"]


def test_a_hanging_backend_delays_exit_by_a_second_at_most(backend: Backend) -> None:
    """Ends that cannot be posted in time are left to their leases, and counted."""
    autellix.init(backend.base_url)
    backend.may_answer_end.clear()
    with autellix.program():
        _ask(backend)
    backend.wait_for_end()
    with autellix.program() as second:
        _ask(backend)
    reporter = runtime.reporter
    assert reporter is not None
    reporter.close(timeout_s=0.01)
    assert list(faults.counts.values()) == [1]
    assert second.bill(WAIT_S).calls == 1
    backend.may_answer_end.set()


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest end gives way; nobody waits."""
    monkeypatch.setattr(_lifecycle, "_MAX_QUEUE", 2)
    reporter = Reporter("http://127.0.0.1:9", None)
    monkeypatch.setattr(reporter, "_keep_running", lambda: None)
    programs = [FakeProgram(reporter) for _ in range(3)]
    for program in programs:
        reporter.end(program, "ok")
    assert [program.settled for program in programs] == [1, 0, 0]
    assert len(faults.counts) == 1
    reporter.close()
    assert [program.settled for program in programs] == [1, 1, 1]


def test_threads_cannot_start_at_interpreter_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the end is left to its lease."""
    reporter = Reporter("http://127.0.0.1:9", None)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    program = FakeProgram(reporter)
    reporter.end(program, "ok")
    reporter.close()
    assert (list(faults.counts.values()), program.settled) == ([1, 1], 1)


def test_the_thread_stops_when_there_is_nothing_to_do(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lingers for a while, ends, and starts again with the next program."""
    monkeypatch.setattr(_lifecycle, "_LINGER_S", 0.0)
    autellix.init(backend.base_url)
    for _ in range(2):
        with autellix.program() as p:
            _ask(backend)
        p.bill(WAIT_S)
        for thread in threading.enumerate():
            if thread.name == "autellix-reporter":
                thread.join(WAIT_S)
        assert "autellix-reporter" not in [thread.name for thread in threading.enumerate()]
    assert len(backend.ends) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_thread_starts_again_whatever_ended_it(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is unforeseen costs what was at hand, not all that comes after it."""
    autellix.init(backend.base_url)
    reporter = runtime.reporter
    assert reporter is not None
    with monkeypatch.context() as patch:
        patch.setattr(reporter, "_report", lambda _: sys.exit())
        with autellix.program():
            _ask(backend)
        if (thread := reporter._thread) is not None:
            thread.join(WAIT_S)
    with autellix.program() as p:
        _ask(backend)
    backend.wait_for_end()
    assert backend.ended() == {p.id: "ok"}


def test_an_idle_implicit_program_is_ended(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute without a call in flight; the next call is a new program."""
    autellix.init(backend.base_url)
    _ask(backend)
    first = autellix.current()
    assert first is not None
    assert 59 < first.end_if_idle(60.0) <= 60
    _let_a_minute_pass(monkeypatch)
    backend.wait_for_end()
    assert backend.ended() == {first.id: "ok"}
    _ask(backend)
    assert backend.contexts[1].program != first.id
    assert (backend.contexts[1].call, backend.contexts[1].parents) == ("0.0", ())


def test_a_reopened_program_is_ended_again(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has gone idle, though no scope will be left any more; a scope that is open keeps it."""
    autellix.init(backend.base_url)
    with autellix.program(id="again") as p:
        _ask(backend)
        late_child = Job(fork_job(), autellix.headers)
    backend.wait_for_end()
    late_child()
    assert not p.ledger.ended
    with autellix.program(id="again"):
        _let_a_minute_pass(monkeypatch)
        assert not p.ledger.ended
    backend.wait_for_end()
    late_child()
    _let_a_minute_pass(monkeypatch)
    backend.wait_for_end()
    assert p.ledger.ended


def test_ten_thousand_programs_cost_a_call_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding one wakes nobody, and a look asks only those whose minute is over, under no lock."""
    clock = FakeClock(monkeypatch)
    reporter = Reporter("http://127.0.0.1:9", None)
    monkeypatch.setattr(reporter, "_keep_running", lambda: None)
    monkeypatch.setattr(reporter._wake, "notify", lambda: pytest.fail("woke the reporter"))
    programs = []
    for _ in range(10_000):
        programs.append(FakeProgram(reporter))
        reporter.watch(programs[-1])
        clock.s += 0.01
    busy, idle = programs[:3], programs[3:]
    for program in busy:
        program.idle_since_s = clock.s
    clock.s = 60.095
    reporter._look()
    assert [program.asked for program in programs[:11]] == [1] * 10 + [0]
    assert [program.ended for program in programs[:11]] == [False] * 3 + [True] * 7 + [False]
    clock.s = 159.995
    reporter._look()
    assert all(program.ended for program in idle)
    assert {program.asked for program in idle} == {1}
    assert [(program.asked, program.ended) for program in busy] == [(1, False)] * 3
    clock.s = 161
    reporter._look()
    assert [(program.asked, program.ended) for program in busy] == [(2, True)] * 3


def test_a_call_after_a_minute_opens_a_new_program_by_itself(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the reporter has not looked yet."""
    autellix.init(backend.base_url)
    _ask(backend)
    monkeypatch.setattr(_programs, "IMPLICIT_IDLE_S", 0.0)
    _ask(backend)
    first, second = (context.program for context in backend.contexts)
    assert first != second
    backend.wait_for_end()
    assert backend.ended() == {first: "ok"}


def test_implicit_programs_end_at_shutdown(backend: Backend) -> None:
    """Nothing is left to the lease on an orderly exit."""
    autellix.init(backend.base_url)
    _ask(backend)
    autellix.shutdown()
    assert list(backend.ended().values()) == ["ok"]


@pytest.mark.parametrize("leave", ["pass", "raise SystemExit(3)", "raise KeyboardInterrupt"])
def test_ends_are_posted_at_exit(backend: Backend, leave: str) -> None:
    """Scope, exception and interrupt alike: one process, one batch, no thread that keeps it alive."""
    code = f"""
import urllib.request, autellix_sdk
autellix_sdk.init({backend.base_url!r})
with autellix_sdk.program(id="p1"):
    autellix_sdk.headers()
    {leave}
"""
    subprocess.run([sys.executable, "-c", code], timeout=WAIT_S, stderr=subprocess.DEVNULL)
    assert backend.ended() == {"p1": "ok" if leave == "pass" else "error"}
