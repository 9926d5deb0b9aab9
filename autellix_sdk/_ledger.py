"""What one program's calls cost, as seen from the client: when calls were in flight, and the bills that came back."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from datetime import timedelta
from time import monotonic_ns
from typing import Any, Protocol

from autellix_sdk._faults import faults
from autellix_sdk._graph import Node
from autellix_sdk.bill import CallBill, ProgramBill, decode_bill, sum_time
from autellix_sdk.errors import WireError
from autellix_sdk.wire import BILL_HEADER, CallId, ProgramId

_FLIGHTS_TO_MERGE = 256


class Response(Protocol):
    """The part of an httpx or httpx2 response that is looked at."""

    @property
    def status_code(self) -> int:
        """HTTP status."""

    @property
    def headers(self) -> Any:
        """Response headers, a case-insensitive mapping."""

    @property
    def is_closed(self) -> bool:
        """Whether the body was read or given up."""

    @property
    def elapsed(self) -> timedelta:
        """Time from sending to closing; raises `RuntimeError` before that."""


class Flight:
    """One attempt of a call: from the request hook until its response is closed, or until it failed.

    Attributes:
        ledger: the books of the call's program.
        node: the call's place in the call graph.
        retry: number of the attempt; 0 for the first.
        started_ns: when the attempt began, on the monotonic clock.
        ended_ns: when it ended; `None` while in flight, as far as was noticed: see `poll`.
        status: HTTP status of the response, after redirects; 0 before one came, or when none came.
        unbilled: no bill will come for it. The ledger's to change, under its lock.
    """

    __slots__ = ("_response", "ended_ns", "ledger", "node", "retry", "started_ns", "status", "unbilled")

    def __init__(self, ledger: Ledger, node: Node, retry: int) -> None:
        self.ledger: Ledger = ledger
        self.node: Node = node
        self.retry: int = retry
        self.started_ns: int = monotonic_ns()
        self.ended_ns: int | None = None
        self.status: int = 0
        self.unbilled: bool = False
        self._response: weakref.ref[Response] | None = None

    @property
    def retryable(self) -> bool:
        """The attempt went in a way after which clients try again: refused, or over without a response."""
        return self.status >= 400 or (self.ended_ns is not None and not self.status)

    def land(self, response: Response) -> None:
        """A response came. A stream stays in flight until it is closed or dropped; it is watched, never wrapped."""
        self.status = response.status_code
        if response.is_closed:
            self.ended_ns = monotonic_ns()
        else:
            self._response = weakref.ref(response, self._on_dropped)
        if BILL_HEADER in response.headers:
            self.ledger.add_bill(self.node[1], response.headers[BILL_HEADER])
        elif self.status >= 400:
            self.ledger.give_up(self)

    def fail(self) -> None:
        """The attempt raised, most likely before a response came."""
        self.close()
        if not self.status:
            self.ledger.give_up(self)

    def close(self) -> None:
        """The attempt is over, or nothing more will be learned about it."""
        self.ended_ns = monotonic_ns()

    def poll(self) -> int | None:
        """Return when the attempt ended, looking whether a stream was closed since; `None` while in flight."""
        response = None if self._response is None else self._response()
        if self.ended_ns is None and response is not None and response.is_closed:
            try:
                took_ns = round(response.elapsed / timedelta(microseconds=1)) * 1000
            except RuntimeError:  # is being closed by another thread at this moment
                took_ns = monotonic_ns() - self.started_ns
            self.ended_ns = self.started_ns + took_ns
        return self.ended_ns

    def _on_dropped(self, _: weakref.ref[Response]) -> None:
        # Runs wherever the garbage collector does, possibly under the ledger's lock: it may only store.
        if self.ended_ns is None:
            self.ended_ns = monotonic_ns()


class Ledger:
    """The books of one program. Safe to use from any thread, and from code that interrupts this one in its own thread.

    The garbage collector and signal handlers run such code, so the lock is reentrant, reading changes nothing, and what
    belongs together is written in one statement.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._answered = threading.Condition(self._lock)
        self._started_ns = self._begun_ns = monotonic_ns()
        self._ended_ns: int | None = None
        self._flights: list[Flight] = []
        self._merge_above = _FLIGHTS_TO_MERGE
        self._unbilled = 0
        self._busy_ns = 0
        self._last_ns = self._started_ns
        self._intervals: list[tuple[int, int]] = []
        self._unread: deque[tuple[CallId, str]] = deque()
        self._bills: dict[CallId, CallBill] = {}
        self._awaited = 0
        self._final: ProgramBill | None = None

    @property
    def ended(self) -> bool:
        """Whether the program's end was the last thing that happened."""
        return self._ended_ns is not None

    def begin(self, node: Node, retry: int = 0) -> Flight:
        """A call sets out. Takes no lock: appending is atomic, and merging replaces only what it has looked at."""
        flight = Flight(self, node, retry)
        self._begun_ns = flight.started_ns
        self._flights.append(flight)
        if len(self._flights) > self._merge_above:
            with self._lock:
                self._merge()
        return flight

    def begin_again(self, last: Flight, retry: int) -> Flight:
        """A call sets out once more, after the attempt `last`; `retry` is the number of the new one."""
        with self._lock:
            self._unbilled -= last.unbilled
            last.unbilled = False
        return self.begin(last.node, retry)

    def give_up(self, flight: Flight) -> None:
        """No bill will come for an attempt."""
        with self._lock:
            self._unbilled += not flight.unbilled
            flight.unbilled = True

    def add_bill(self, call: CallId, bill: str) -> None:
        """Keep the bill of a call, to be read when somebody asks: reading takes longer than the whole stamping."""
        self._unread.append((call, bill))

    def end(self, answered: bool) -> None:
        """The program has ended; `answered` says that no answer of the server's is to be waited for."""
        with self._lock:
            self._ended_ns = monotonic_ns()
            self._awaited += not answered

    def reopen(self) -> None:
        """The program goes on after all."""
        with self._lock:
            self._ended_ns = self._final = None

    def settle(self, bill: ProgramBill | None) -> bool:
        """An end was answered, or will not be. The server's bill of the last end stands until the program goes on.

        Returns:
            Whether it was the last end, and the program did not go on.
        """
        with self._lock:
            self._awaited -= 1
            finished = self.ended and not self._awaited
            if bill is not None and finished:
                self._final = bill
            self._answered.notify_all()
            return finished

    def wait(self, wait_s: float) -> None:
        """Wait up to `wait_s` seconds until every end is answered; not at all while the program runs."""
        with self._lock:
            if self.ended:
                self._answered.wait_for(lambda: not self._awaited, wait_s)

    def idle_s(self) -> float:
        """Seconds since the last call ended; 0 while one is in flight."""
        with self._lock:
            last_ns = self._last_ns
            for flight in self._flights:
                end_ns = flight.poll()
                if end_ns is None:
                    return 0.0
                last_ns = max(last_ns, end_ns)
            return (monotonic_ns() - last_ns) / 1e9

    def has_idled(self, limit_s: float) -> bool:
        """Whether no call was in flight for `limit_s` seconds; cheap while calls are frequent."""
        return monotonic_ns() - self._begun_ns >= limit_s * 1e9 and self.idle_s() >= limit_s

    def bill(self, program: ProgramId, name: str | None, begun: int, threads: int) -> ProgramBill:
        """The bill so far, or the server's once it came. `begun` is the number of calls in the call graph."""
        with self._lock:
            if self._final is not None:
                return self._final
            errors = self._read_bills()
            now_ns = self._ended_ns or monotonic_ns()
            flown = [(flight.started_ns, flight.poll() or now_ns) for flight in self._flights]
            busy_ns = self._busy_ns + sum(end - start for start, end in _union(self._intervals + flown))
            bills, elapsed_ns = list(self._bills.values()), now_ns - self._started_ns
            pending = max(0, begun - len(bills) - self._unbilled)
        for error in errors:
            faults.record("a time bill could not be read", error)
        return ProgramBill(
            program=program,
            name=name,
            calls=len(bills),
            pending=pending,
            threads=threads,
            time=sum_time(bills),
            service_us=sum(bill.service_us for bill in bills),
            prompt_tokens=sum(bill.prompt_tokens for bill in bills),
            cached_tokens=sum(bill.cached_tokens for bill in bills),
            output_tokens=sum(bill.output_tokens for bill in bills),
            recomputed_tokens=sum(bill.recomputed_tokens for bill in bills),
            swapped_tokens=sum(bill.swapped_tokens for bill in bills),
            preemptions=sum(bill.preemptions for bill in bills),
            elapsed_us=elapsed_ns // 1000,
            tool_us=max(0, elapsed_ns - busy_ns) // 1000,
        )

    def after_fork(self) -> None:
        """Continue in a forked process: nobody there will release the lock, land what was in flight, or answer."""
        self._lock = threading.RLock()
        self._answered = threading.Condition(self._lock)
        self._awaited = 0
        for flight in self._flights:
            if flight.poll() is None:
                flight.close()
                self.give_up(flight)

    def _merge(self) -> None:
        """Move what has landed into intervals, and those that nothing can overlap any more into one sum."""
        looked_at = len(self._flights)
        self._merge_above = 2 * looked_at  # raised first: a call that interrupts this one is not to merge as well
        landed, flying = list(self._intervals), []
        for flight in self._flights[:looked_at]:
            end_ns = flight.poll()
            if end_ns is None:
                flying.append(flight)
            else:
                landed.append((flight.started_ns, end_ns))
        self._last_ns = max([self._last_ns, *(end for _, end in landed)])
        merged = _union(landed)
        still_open_ns = min(flight.started_ns for flight in flying)  # the call that is about to set out is among them
        busy_ns = self._busy_ns + sum(end - start for start, end in merged if end <= still_open_ns)
        intervals = [(start, end) for start, end in merged if end > still_open_ns]
        self._busy_ns, self._intervals, self._flights[:looked_at] = busy_ns, intervals, flying
        self._merge_above = max(_FLIGHTS_TO_MERGE, 2 * len(flying))

    def _read_bills(self) -> list[WireError]:
        errors = []
        while self._unread:
            call, text = self._unread.popleft()
            try:
                self._bills[call] = decode_bill(text)
            except WireError as error:
                errors.append(error)
        return errors


def _union(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join overlapping intervals; sorted by start."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
