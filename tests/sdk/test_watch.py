"""`watch`: one line for each program that has finished, written by the background thread."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from queue import Queue
from typing import Any

import httpx
import pytest

import autellix_sdk as autellix
from autellix_sdk import Finished, _lifecycle
from autellix_sdk._faults import faults
from autellix_sdk._lifecycle import Reporter
from autellix_sdk._runtime import runtime
from autellix_sdk.bill import ProgramBill, TimeSplit
from autellix_sdk.wire import ProgramId
from tests.sdk.conftest import WAIT_S, Backend, program_bill

TIME = TimeSplit({"admission": 400_000, "batch": 100_000}, 250_000, 1_500_000, other_us=250_000)
BILL = ProgramBill(ProgramId("p"), "research", 3, 0, 2, TIME, 0, 90, 40, 12, 0, 5_000_000, 1_250_000)


def _ask(backend: Backend, stream: bool = False) -> None:
    httpx.post(backend.base_url + "/chat/completions", json={"stream": stream})


def test_a_line_says_where_the_time_went() -> None:
    """Shares of the wall time, with what was queued for all causes together."""
    assert str(Finished(BILL, "ok")) == (
        "research p ok: 5.00 s, 3 calls in 2 threads, 90 + 12 tokens; "
        "queued 15%, prefill 8%, decode 45%, swap 0%, other 8%, tools 25%"
    )


def test_a_line_without_bills_says_what_is_known() -> None:
    """From a server that bills nothing, or that was gone."""
    assert str(Finished(replace(BILL, name=None, calls=0, pending=1, time=TimeSplit()), "error")) == (
        "program p error: 5.00 s, 0 calls (1 more not billed yet) in 2 threads; calls, not billed 75%, tools 25%"
    )


def test_every_program_that_made_a_call_is_told_about(backend: Backend) -> None:
    """With its status, from the background thread, once the end was acknowledged: streams are billed by then."""
    seen: Queue[tuple[Finished, str]] = Queue()
    backend.bill = program_bill
    autellix.init(backend.base_url)
    autellix.watch(lambda finished: seen.put((finished, threading.current_thread().name)))
    with autellix.program() as p:
        _ask(backend, stream=True)
    with autellix.program():
        pass
    with contextlib.suppress(LookupError), autellix.program() as q:
        _ask(backend)
        raise LookupError
    assert seen.get(timeout=WAIT_S) == (Finished(program_bill(p.id), "ok"), "autellix-reporter")
    assert seen.get(timeout=WAIT_S) == (Finished(program_bill(q.id), "error"), "autellix-reporter")
    autellix.shutdown()
    assert seen.empty()


def test_a_program_that_goes_on_is_told_about_when_it_has_finished(backend: Backend) -> None:
    """An end that was overtaken by another scope is not the last word."""
    seen: Queue[Finished] = Queue()
    autellix.init(backend.base_url)
    autellix.watch(seen.put)
    backend.may_answer_end.clear()
    with autellix.program(id="session"):
        _ask(backend)
    backend.wait_for_end()
    with autellix.program(id="session"):
        _ask(backend)
        backend.may_answer_end.set()
    assert seen.get(timeout=WAIT_S).bill.calls == 2
    autellix.shutdown()
    assert seen.empty()


def test_lines_go_to_a_stream_until_the_watch_is_closed(backend: Backend) -> None:
    """Other watches go on; closing it again does nothing."""
    output = io.StringIO()
    seen: Queue[Finished] = Queue()
    autellix.init(backend.base_url)
    with autellix.watch(output) as watch:
        autellix.watch(seen.put)
        for name in ("first", "second"):
            with autellix.program(name):
                _ask(backend)
            assert seen.get(timeout=WAIT_S).bill.name == name
            watch.close()
    assert [line.split()[:2] for line in output.getvalue().splitlines()] == [["autellix:", "first"]]


def test_another_init_closes_no_watch(backend: Backend, elsewhere: Backend) -> None:
    """One that the environment opened goes on under the settings of the app, until it is closed."""
    seen: Queue[Finished] = Queue()
    autellix.init(backend.base_url)
    watch = autellix.watch(seen.put)
    autellix.init(elsewhere.base_url)
    with autellix.program("first"):
        _ask(elsewhere)
    assert seen.get(timeout=WAIT_S).bill.name == "first"
    watch.close()
    with autellix.program("second"):
        _ask(elsewhere)
    autellix.shutdown()
    assert seen.empty()


def test_a_watch_closed_during_another_init_stays_closed(
    backend: Backend, elsewhere: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two threads comes first."""
    seen: Queue[Finished] = Queue()
    autellix.init(backend.base_url)
    watch, close = autellix.watch(seen.put), Reporter.close

    def close_both(reporter: Reporter) -> None:
        watch.close()
        close(reporter)

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "close", close_both)
        autellix.init(elsewhere.base_url)
    with autellix.program():
        _ask(elsewhere)
    autellix.shutdown()
    assert seen.empty()


def test_shutdown_closes_watches(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    """What finishes before it is written to standard error; what comes after the next `init` is not."""
    for name in ("before", "after"):
        autellix.init(backend.base_url)
        if name == "before":
            autellix.watch()
        with autellix.program(name):
            _ask(backend)
        autellix.shutdown()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("autellix: before ")


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_that_acknowledges_nothing_is_watched_too(backend: Backend, status: int) -> None:
    """The client's own figures are shown, also after posting was turned off."""
    seen: Queue[Finished] = Queue()
    backend.end_status = status
    autellix.init(backend.base_url)
    autellix.watch(seen.put)
    for _ in range(2):
        with autellix.program() as p:
            _ask(backend)
        finished = seen.get(timeout=WAIT_S)
        assert (finished.bill.program, finished.bill.calls, finished.status) == (p.id, 1, "ok")
    assert len(backend.ends) == (1 if status == 404 else 2)


def test_no_listener_runs_in_the_thread_that_shuts_down(monkeypatch: pytest.MonkeyPatch, lenient: None) -> None:
    """Ends that could not be posted in time are given up without a line: writing it could take for ever."""
    autellix.init("http://127.0.0.1:9/v1")
    told: list[Finished] = []
    autellix.watch(told.append)
    assert runtime.reporter is not None
    monkeypatch.setattr(runtime.reporter, "_keep_running", lambda: None)
    with autellix.program() as p:
        autellix.headers()
    autellix.shutdown()
    assert (p.bill(WAIT_S).pending, told) == (1, [])


def test_a_listener_may_wait_for_whoever_shuts_down(backend: Backend) -> None:
    """A lock that the user holds around `shutdown` delays it for a moment only."""
    lock, waiting, done = threading.Lock(), threading.Event(), threading.Event()

    def listener(_: Finished) -> None:
        waiting.set()
        with lock:
            done.set()

    autellix.init(backend.base_url)
    autellix.watch(listener)
    reporter = runtime.reporter
    assert reporter is not None
    with lock:
        for _ in range(2):
            with autellix.program():
                _ask(backend)
            assert waiting.wait(WAIT_S)
        closing = threading.Thread(target=reporter.close, args=(0.01,), daemon=True)
        closing.start()
        closing.join(WAIT_S)
        assert not closing.is_alive()
    assert done.wait(WAIT_S)


def test_what_no_callback_was_told_of_at_exit_is_counted(backend: Backend) -> None:
    """There is a second for everything, and then it is given up."""
    told: list[Finished] = []
    called, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def slow(finished: Finished) -> None:
        told.append(finished)
        called.set()
        assert go_on.wait(WAIT_S)
        done.set()

    autellix.init(backend.base_url)
    autellix.watch(slow)
    reporter = runtime.reporter
    assert reporter is not None
    with autellix.program():
        _ask(backend)
    assert called.wait(WAIT_S)
    reporter._finished.append((BILL, "ok"))
    reporter.close(timeout_s=0.01)
    go_on.set()
    assert done.wait(WAIT_S)
    autellix.shutdown()
    assert (len(told), list(faults.counts.values())) == (1, [1])


def test_a_slow_callback_lets_ends_go_first(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ended while it was at work is posted before it is called again; only so much is kept for it."""
    monkeypatch.setattr(_lifecycle, "_TELL_S", 0.0)
    monkeypatch.setattr(_lifecycle, "_MAX_TOLD", 2)
    posted: Queue[tuple[str | None, int]] = Queue()
    called, go_on = threading.Event(), threading.Event()

    def slow(finished: Finished) -> None:
        called.set()
        assert go_on.wait(WAIT_S)
        posted.put((finished.bill.name, len(backend.ended())))
        if finished.bill.name == "c":
            with autellix.program("e"):
                autellix.headers()

    autellix.init(backend.base_url)
    autellix.watch(slow)
    for name in "abcd":
        with autellix.program(name):
            _ask(backend)
        assert called.wait(WAIT_S)
    go_on.set()
    assert [posted.get(timeout=WAIT_S) for _ in "acde"] == [("a", 1), ("c", 4), ("d", 5), ("e", 5)]
    assert list(faults.counts.values()) == [1]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_callback_that_exits_ends_nothing(backend: Backend, error: type[BaseException]) -> None:
    """It runs in a thread of ours, which goes on."""
    seen: Queue[Finished] = Queue()

    def leave(_: Finished) -> None:
        raise error

    autellix.init(backend.base_url)
    autellix.watch(leave)
    autellix.watch(seen.put)
    for name in ("first", "second"):
        with autellix.program(name):
            _ask(backend)
        assert seen.get(timeout=WAIT_S).bill.name == name
    assert faults.counts["watch could not write a line"] == 2


def test_what_a_callback_raises_is_counted(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """It harms neither the reporter nor the other watches; it may shut the client down."""
    done = threading.Event()
    autellix.init(backend.base_url)

    def broken(_: Finished) -> Any:
        raise ZeroDivisionError("mine")

    def leave(_: Finished) -> None:
        autellix.shutdown()
        done.set()

    autellix.watch(broken)
    autellix.watch(leave)
    with autellix.program():
        _ask(backend)
    assert done.wait(WAIT_S)
    assert runtime.reporter is None
    assert list(faults.counts) == ["watch could not write a line"]
    assert "ZeroDivisionError: mine" in caplog.text


def test_without_a_backend_there_is_nothing_to_watch(caplog: pytest.LogCaptureFixture) -> None:
    """That is said, with the remedy; `watch` switches the client on where nobody did."""
    with autellix.watch() as watch:
        assert runtime.settings is not None
    watch.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "AUTELLIX_BASE_URL" in caplog.text


@pytest.mark.parametrize(("value", "lines"), [("1", 1), ("0", 0), ("", 0)])
def test_the_environment_switches_it_on(value: str, lines: int) -> None:
    """With `autellix_sdk.auto`; lines are written before the process ends, though the backend is gone."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    code = """
import logging
logging.disable()
import autellix_sdk.auto, autellix_sdk
with autellix_sdk.program("job"):
    autellix_sdk.headers()
"""
    environ = {"AUTELLIX_BASE_URL": f"http://127.0.0.1:{port}/v1", "AUTELLIX_WATCH": value}
    run = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(run, check=True, env=os.environ | environ, stderr=subprocess.PIPE, text=True, timeout=WAIT_S)
    assert [line.startswith("autellix: job ") for line in done.stderr.splitlines()] == [True] * lines


def test_another_value_in_the_environment_is_refused() -> None:
    """The message names the variable and the remedy."""
    run = [sys.executable, "-c", "import autellix_sdk.auto"]
    done = subprocess.run(run, env=os.environ | {"AUTELLIX_WATCH": "yes"}, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "AUTELLIX_WATCH='yes' is not 0 or 1; correct or unset it" in done.stderr
