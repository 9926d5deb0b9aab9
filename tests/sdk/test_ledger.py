"""The client's own clock and books, on a clock that the tests turn."""

from __future__ import annotations

import gc
from datetime import timedelta
from typing import Any

import pytest

from autellix_sdk import _ledger
from autellix_sdk._faults import faults
from autellix_sdk._ledger import Flight, Ledger
from autellix_sdk.bill import ProgramBill
from autellix_sdk.wire import BILL_HEADER, CallId, ProgramId
from tests.sdk.conftest import WAIT_S, call_bill, finishes, program_bill

NODE = (0, CallId("0.0"), ())


class FakeResponse:
    """A response that the test closes."""

    def __init__(self, status_code: int = 200, is_closed: bool = True, bill: str | None = None) -> None:
        self.status_code = status_code
        self.is_closed = is_closed
        self.headers = {} if bill is None else {BILL_HEADER: bill}
        self.took_us: float | None = None

    @property
    def elapsed(self) -> timedelta:
        """As httpx has it: only once closed."""
        if self.took_us is None:
            raise RuntimeError("not closed yet")
        return timedelta(microseconds=self.took_us)


class Clock:
    """Microseconds that pass when the test says so."""

    def __init__(self) -> None:
        self.us = 1_000_000

    def __call__(self) -> int:
        """Nanoseconds, as the real one."""
        return self.us * 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The ledger's clock."""
    clock = Clock()
    monkeypatch.setattr(_ledger, "monotonic_ns", clock)
    return clock


def _bill(ledger: Ledger, begun: int = 1) -> ProgramBill:
    return ledger.bill(ProgramId("p"), None, begun, 1)


def _fly(ledger: Ledger, clock: Clock, for_us: int, response: Any = None) -> Flight:
    flight = ledger.begin(NODE)
    clock.us += for_us
    flight.land(response or FakeResponse())
    return flight


def test_time_without_a_call_is_tool_time(clock: Clock) -> None:
    """Calls side by side count once."""
    ledger = Ledger()
    clock.us += 100
    first, second = ledger.begin(NODE), ledger.begin(NODE)
    clock.us += 10
    first.land(FakeResponse())
    clock.us += 20
    assert (_bill(ledger).elapsed_us, _bill(ledger).tool_us) == (130, 100)
    second.land(FakeResponse())
    clock.us += 5
    _fly(ledger, clock, 40)
    assert (_bill(ledger).elapsed_us, _bill(ledger).tool_us) == (175, 105)
    ledger.end(answered=True)
    clock.us += 1000
    assert (_bill(ledger).elapsed_us, _bill(ledger).tool_us) == (175, 105)


def test_a_stream_is_in_flight_until_it_is_closed(clock: Clock) -> None:
    """Nobody has to look at that moment: the response knows how long it took."""
    ledger = Ledger()
    response = FakeResponse(is_closed=False)
    _fly(ledger, clock, 10, response)
    clock.us += 90
    assert (_bill(ledger).tool_us, ledger.idle_s()) == (0, 0.0)
    response.is_closed, response.took_us = True, 150.0
    clock.us += 100
    assert (_bill(ledger).elapsed_us, _bill(ledger).tool_us) == (200, 50)
    assert ledger.idle_s() == pytest.approx(50e-6)


def test_a_stream_being_closed_right_now_ends_now(clock: Clock) -> None:
    """Its time is not known yet, so the present has to do."""
    ledger = Ledger()
    response = FakeResponse(is_closed=False)
    flight = _fly(ledger, clock, 10, response)
    response.is_closed = True
    assert flight.poll() == clock()


def test_a_dropped_stream_ends_when_it_is_collected(clock: Clock) -> None:
    """A response that nobody holds any more is over."""
    ledger = Ledger()
    response = FakeResponse(is_closed=False)
    _fly(ledger, clock, 10, response)
    clock.us += 20
    del response
    gc.collect()
    clock.us += 70
    assert (_bill(ledger).elapsed_us, _bill(ledger).tool_us) == (100, 70)


def test_a_failed_attempt_awaits_no_bill_until_it_is_retried(clock: Clock) -> None:
    """Pending are calls whose bill can still come."""
    ledger = Ledger()
    flight = ledger.begin(NODE)
    assert _bill(ledger).pending == 1
    flight.fail()
    flight.fail()
    assert (flight.retryable, _bill(ledger).pending) == (True, 0)
    again = ledger.begin_again(flight, 1)
    assert (again.node, again.retry, _bill(ledger).pending) == (NODE, 1, 1)
    again.land(FakeResponse(503))
    assert (again.retryable, _bill(ledger).pending) == (True, 0)
    last = ledger.begin_again(again, 2)
    text = call_bill("p", f"v1;s=a;t=0;c={NODE[1]}").encode()
    last.land(FakeResponse(bill=text))
    last.fail()  # as when the user interrupts right after the response came
    assert not last.retryable
    assert (_bill(ledger).calls, _bill(ledger).pending) == (1, 0)


def test_long_programs_keep_short_books(clock: Clock) -> None:
    """Calls that are over are merged into sums; the figures stay exact."""
    ledger = Ledger()
    straggler = ledger.begin(NODE)
    for _ in range(600):
        clock.us += 3
        _fly(ledger, clock, 7)
    straggler.land(FakeResponse())
    for _ in range(600):
        clock.us += 3
        _fly(ledger, clock, 7)
    assert (_bill(ledger).elapsed_us, _bill(ledger).tool_us) == (12_000, 1_800)
    assert len(ledger._flights) + len(ledger._intervals) < 300


@pytest.mark.parametrize("is_closed", [True, False])
def test_refused_calls_await_no_bill_and_billed_streams_neither(clock: Clock, is_closed: bool) -> None:
    """What the headers of a response say is said, whether or not its body was read."""
    ledger = Ledger()
    responses = [
        FakeResponse(429, is_closed),
        FakeResponse(200, is_closed),
        FakeResponse(200, is_closed, call_bill("p", "v1;s=a;t=0;c=0.2").encode()),
        FakeResponse(500, is_closed, call_bill("p", "v1;s=a;t=0;c=0.3").encode()),
    ]
    for number, response in enumerate(responses):
        ledger.begin((0, CallId(f"0.{number}"), ())).land(response)
    assert (_bill(ledger, begun=4).calls, _bill(ledger, begun=4).pending) == (2, 1)


def test_books_are_whole_for_code_that_interrupts_them(clock: Clock) -> None:
    """A finalizer or signal handler that asks for the bill, or makes a call, in the middle of our own work."""
    ledger = Ledger()
    seen = []

    class Interrupting(FakeResponse):
        armed = False

        @property
        def is_closed(self) -> bool:
            if self.armed:
                self.armed = False
                seen.append((_bill(ledger).tool_us, ledger.idle_s()))
                ledger.begin(NODE).land(FakeResponse())
            return False

        @is_closed.setter
        def is_closed(self, _: bool) -> None:
            """Stay open."""

    def history() -> int:
        clock.us += 5
        for _ in range(600):
            clock.us += 3
            _fly(ledger, clock, 7)
        stream = Interrupting()
        ledger.begin(NODE).land(stream)
        stream.armed = True
        for _ in range(600):
            clock.us += 10
            _fly(ledger, clock, 10)
        return _bill(ledger).tool_us

    assert finishes(history) == 1805
    assert seen == [(1805, 0.0)]


def test_a_forked_process_does_not_wait_for_what_the_other_has_in_flight(clock: Clock) -> None:
    """Nobody will land it there, nor answer an end."""
    ledger = Ledger()
    ledger.begin(NODE)
    ledger.end(answered=False)
    clock.us += 10
    ledger.after_fork()
    clock.us += 20
    assert ledger.idle_s() == pytest.approx(20e-6)
    assert _bill(ledger).pending == 0
    finishes(lambda: ledger.wait(2 * WAIT_S))


def test_unreadable_call_bills_are_counted(clock: Clock) -> None:
    """They stay pending."""
    ledger = Ledger()
    _fly(ledger, clock, 1, FakeResponse(bill="{}"))
    assert (_bill(ledger).calls, _bill(ledger).pending) == (0, 1)
    assert list(faults.counts) == ["a time bill could not be read"]


def test_the_servers_bill_stands_until_the_program_goes_on(clock: Clock) -> None:
    """It replaces the client's after the end, and not before."""
    ledger = Ledger()
    final = program_bill("p")
    ledger.end(answered=False)
    ledger.reopen()
    ledger.settle(final)
    assert (ledger.ended, _bill(ledger) == final) == (False, False)
    ledger.end(answered=False)
    ledger.settle(final)
    assert (ledger.ended, _bill(ledger) == final) == (True, True)
    ledger.reopen()
    assert (ledger.ended, _bill(ledger) == final) == (False, False)


def test_the_bill_of_an_earlier_end_is_not_the_last_word(clock: Clock) -> None:
    """A program that was reopened and ended again waits for the answer to its last end."""
    ledger = Ledger()
    for _ in range(2):
        ledger.end(answered=False)
        ledger.reopen()
    ledger.end(answered=False)
    first, last = program_bill("first"), program_bill("last")
    ledger.settle(first)
    ledger.settle(None)
    assert _bill(ledger) != first
    ledger.settle(last)
    assert _bill(ledger) == last


def test_idleness_is_cheap_to_ask_about(clock: Clock) -> None:
    """A call within the limit answers without looking at the others."""
    ledger = Ledger()
    _fly(ledger, clock, 30)
    clock.us += 70
    assert not ledger.has_idled(200e-6)
    assert not ledger.has_idled(80e-6)
    assert ledger.has_idled(70e-6)
