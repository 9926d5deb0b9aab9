"""The end of programs: posted in the background, in batches, never in the user's way; and the bill that comes back."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from typing import Any

import httpx
import openai
import pytest

import autellix_sdk as autellix
from autellix_sdk import _lifecycle, _programs
from autellix_sdk._faults import faults
from autellix_sdk._lifecycle import Reporter
from autellix_sdk._runtime import runtime
from tests.sdk.conftest import WAIT_S, Backend, program_bill

QUESTION: Any = {"model": "m", "messages": [{"role": "user", "content": "is it?"}]}


def _ask(backend: Backend) -> None:
    httpx.post(backend.base_url + "/chat/completions", json=QUESTION)


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
    monkeypatch.setattr(reporter, "_awaken", lambda: None)
    programs = [_programs.Program() for _ in range(3)]
    for program in programs:
        reporter.end(program, "ok")
    assert [program._settled.is_set() for program in programs] == [True, False, False]
    assert len(faults.counts) == 1
    reporter.close()


def test_threads_cannot_start_at_interpreter_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the end is left to its lease."""
    reporter = Reporter("http://127.0.0.1:9", None)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    reporter.end(_programs.Program(), "ok")
    reporter.close()
    assert list(faults.counts.values()) == [1, 1]


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


def test_an_idle_implicit_program_is_ended(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute without a call in flight; the next call is a new program."""
    autellix.init(backend.base_url)
    _ask(backend)
    first = autellix.current()
    assert first is not None
    reporter = runtime.reporter
    assert reporter is not None
    assert 59 < reporter._end_idle() <= 60
    monkeypatch.setattr(_programs.Program, "idle_s", lambda _: 61.0)
    reporter._end_idle()
    monkeypatch.undo()
    backend.wait_for_end()
    assert backend.ended() == {first.id: "ok"}
    _ask(backend)
    assert backend.contexts[1].program != first.id
    assert (backend.contexts[1].call, backend.contexts[1].parents) == ("0.0", ())


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
