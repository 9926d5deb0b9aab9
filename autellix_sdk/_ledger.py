"""What one program's calls cost, as seen from the client: when calls were in flight, and the bills that came back."""

from __future__ import annotations

import threading
import weakref
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
        started_ns: when the attempt began, on the monotonic clock.
        ended_ns: when it ended; `None` while in flight, as far as was noticed: see `poll`.
        status: HTTP status of the response; 0 before one came, or when none came.
    """

    __slots__ = ("_response", "ended_ns", "ledger", "node", "started_ns", "status")

    def __init__(self, ledger: Ledger, node: Node) -> None:
        self.ledger = ledger
        self.node = node
        self.started_ns = monotonic_ns()
        self.ended_ns: int | None = None
        self.status = 0
        self._response: weakref.ref[Response] | None = None

    @property
    def failed(self) -> bool:
        """The attempt ended without a response: no bill will come for it."""
        return self.ended_ns is not None and not self.status

    @property
    def retryable(self) -> bool:
        """The attempt went in a way after which clients try again."""
        return self.status >= 400 or self.failed

    def land(self, response: Response) -> None:
        """A response came. A stream stays in flight until it is closed or dropped; it is watched, never wrapped."""
        self.status = response.status_code
        if response.is_closed:
            self.ended_ns = monotonic_ns()
            if BILL_HEADER in response.headers:
                self.ledger.add_bill(self.node[1], response.headers[BILL_HEADER])
        else:
            self._response = weakref.ref(response, self._on_dropped)

    def close(self) -> None:
        """The attempt raised, or nothing will be learned about its response."""
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
    """The books of one program. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started_ns = self._begun_ns = monotonic_ns()
        self._ended_ns: int | None = None
        self._flights: list[Flight] = []
        self._merge_above = _FLIGHTS_TO_MERGE
        self._failed = 0
        self._busy_ns = 0
        self._last_ns = self._started_ns
        self._intervals: list[tuple[int, int]] = []
        self._unread: list[tuple[CallId, str]] = []
        self._bills: dict[CallId, CallBill] = {}
        self._final: ProgramBill | None = None

    @property
    def ended(self) -> bool:
        """Whether the program's end was the last thing that happened."""
        return self._ended_ns is not None

    def begin(self, node: Node) -> Flight:
        """A call sets out. Takes no lock: appending is atomic, and merging replaces only what it has looked at."""
        flight = Flight(self, node)
        if self._ended_ns is not None:
            self._ended_ns = self._final = None
        self._begun_ns = flight.started_ns
        self._flights.append(flight)
        if len(self._flights) > self._merge_above:
            with self._lock:
                self._merge(flight.started_ns)
                self._merge_above = max(_FLIGHTS_TO_MERGE, 2 * len(self._flights))
        return flight

    def begin_again(self, last: Flight) -> Flight:
        """A call sets out once more, after the attempt `last`."""
        with self._lock:
            self._failed -= last.failed
        return self.begin(last.node)

    def fail(self, flight: Flight) -> None:
        """An attempt raised."""
        with self._lock:
            flight.close()
            self._failed += flight.failed

    def add_bill(self, call: CallId, bill: str) -> None:
        """Keep the bill of a call, to be read when somebody asks: reading takes longer than the whole stamping."""
        with self._lock:
            self._unread.append((call, bill))

    def end(self) -> None:
        """The program's scope was left. A later call reopens it."""
        self._ended_ns = monotonic_ns()

    def settle(self, bill: ProgramBill) -> None:
        """The server's bill of the whole program came; it stands until another call begins."""
        with self._lock:
            if self._ended_ns is not None:
                self._final = bill

    def idle_s(self) -> float:
        """Seconds since the last call ended; 0 while one is in flight."""
        with self._lock:
            self._merge(now_ns := monotonic_ns())
            return 0.0 if self._flights else (now_ns - self._last_ns) / 1e9

    def has_idled(self, limit_s: float) -> bool:
        """Whether no call was in flight for `limit_s` seconds; cheap while calls are frequent."""
        return monotonic_ns() - self._begun_ns >= limit_s * 1e9 and self.idle_s() >= limit_s

    def bill(self, program: ProgramId, name: str | None, begun: int, threads: int) -> ProgramBill:
        """The bill so far, or the server's once it came. `begun` is the number of calls in the call graph."""
        with self._lock:
            if self._final is not None:
                return self._final
            self._read_bills()
            now_ns = self._ended_ns or monotonic_ns()
            self._merge(now_ns)
            busy = self._intervals + [(flight.started_ns, now_ns) for flight in self._flights]
            busy_ns = self._busy_ns + sum(end - start for start, end in _union(busy))
            bills, elapsed_ns = self._bills.values(), now_ns - self._started_ns
            return ProgramBill(
                program=program,
                name=name,
                calls=len(bills),
                pending=max(0, begun - len(bills) - self._failed),
                threads=threads,
                time=sum_time(bills),
                service_us=sum(bill.service_us for bill in bills),
                prompt_tokens=sum(bill.prompt_tokens for bill in bills),
                cached_tokens=sum(bill.cached_tokens for bill in bills),
                output_tokens=sum(bill.output_tokens for bill in bills),
                preemptions=sum(bill.preemptions for bill in bills),
                elapsed_us=elapsed_ns // 1000,
                tool_us=max(0, elapsed_ns - busy_ns) // 1000,
            )

    def after_fork(self) -> None:
        """Continue in a forked process, where nobody is left to release the lock."""
        self._lock = threading.Lock()

    def _merge(self, now_ns: int) -> None:
        """Move what has landed into intervals, and those that nothing can overlap any more into one sum."""
        looked_at, flying = len(self._flights), []
        for flight in self._flights[:looked_at]:
            end_ns = flight.poll()
            if end_ns is None:
                flying.append(flight)
            else:
                self._intervals.append((flight.started_ns, end_ns))
                self._last_ns = max(self._last_ns, end_ns)
        self._flights[:looked_at] = flying
        still_open_ns = min((flight.started_ns for flight in flying), default=now_ns)
        merged = _union(self._intervals)
        self._busy_ns += sum(end - start for start, end in merged if end <= still_open_ns)
        self._intervals = [(start, end) for start, end in merged if end > still_open_ns]

    def _read_bills(self) -> None:
        for call, text in self._unread:
            try:
                self._bills[call] = decode_bill(text)
            except WireError as error:
                faults.record("a time bill could not be read", error)
        self._unread.clear()


def _union(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join overlapping intervals; sorted by start."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
