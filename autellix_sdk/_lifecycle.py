"""The end of programs, told to the backend in the background: one daemon thread, standard library only.

Losing an end is harmless, because the server ends programs by lease. So this side never retries, never blocks the
user's code, and gives itself one second at exit. A program whose scope stays open through a long tool call has its
lease renewed.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, Literal, Protocol
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from autellix_sdk._faults import faults
from autellix_sdk._local import detached
from autellix_sdk.bill import ProgramBill, program_bill_from_json
from autellix_sdk.errors import WireError
from autellix_sdk.wire import ProgramId

Status = Literal["ok", "error"]

IMPLICIT_IDLE_S = 60.0
"""A program that no scope will end is over after this long without a call in flight."""

RENEWAL_S = 300.0
"""A program in its scope has its lease renewed after this long without a call in flight, and this long after that.

A server's lease is 15 minutes unless told otherwise, so two renewals may be lost.
"""

ABANDONED_S = 86_400.0
"""A program in its scope is left to its lease after this long without a call: nobody may ever leave that scope."""

_END_PATH = "/autellix/v1/programs/end"
_OPEN_PATH = "/autellix/v1/programs"
_NOT_THERE = (404, 405, 501)
"""HTTP statuses by which other OpenAI-compatible servers say that they have no such thing."""

_POST_TIMEOUT_S = 5.0
_MAX_ANSWER_BYTES = 1 << 24
_LINGER_S = 10.0
_LOOK_EVERY_S = 1.0
_TELL_S = 0.1
_MAX_QUEUE = 10_000
_MAX_TOLD = 10_000
_MAX_BATCH = 256


class Endable(Protocol):
    """A program whose end can be told to the backend."""

    id: ProgramId

    def settle(self, bill: ProgramBill | None) -> bool:
        """The backend was told, or could not be; `bill` is the whole program's, where it sent one.

        Returns:
            Whether the program has finished: it did not go on meanwhile, and no other end of it is waiting.
        """

    def bill(self) -> ProgramBill:
        """Return where its time went."""

    def end_if_idle(self, limit_s: float) -> float:
        """End the program, by a call of `Reporter.end`, if no scope will and it has idled for `limit_s` seconds.

        Returns:
            Seconds until it is worth asking again; 0 when it never is.
        """

    def look_after(self, renew: Callable[[Endable], None]) -> float:
        """End the program if it has idled without a scope; ask to `renew` its lease if it has idled in one.

        Returns:
            Seconds until it is worth looking again; 0 when it never is.
        """


Listener = Callable[[ProgramBill, Status], None]
"""Told of a program that has finished; must not raise."""


class _NoRedirect(HTTPRedirectHandler):
    """Follow no redirect: it would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Reporter:
    """Posts the ends of programs in batches, and looks after those that have not ended: see `watch`.

    Its thread starts with the first thing to do and stops 10 s after the last. Listeners run in it, between two
    batches: one call of theirs, or 0.1 s of short ones, is what they can delay an end by. The lock is held for moments
    only, and nothing is called under it: user code waits for it, and may hold locks of its own.

    Args:
        origin: scheme, host and port of the backend; `None` where there is none, and nobody but listeners is told.
        api_key: sent as a bearer token; `None` sends none.
        listeners: told of every program that finishes.
    """

    def __init__(self, origin: str | None, api_key: str | None, listeners: tuple[Listener, ...] = ()) -> None:
        self._origin = origin
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._opener = build_opener(_NoRedirect)
        self._off = origin is None
        self._closing = False
        self.listeners: tuple[Listener, ...] = listeners
        self.after_fork()

    def after_fork(self) -> None:
        """Forget, in a forked process, what the other process will report, and the thread that stayed there."""
        self._wake = threading.Condition()
        self._queue: deque[tuple[Endable, Status]] = deque()
        self._finished: deque[tuple[ProgramBill, Status]] = deque()
        self._watched: dict[Endable, float] = {}
        self._look_s = inf
        self._thread: threading.Thread | None = None

    def end(self, program: Endable, status: Status) -> None:
        """Queue the end of a program. Never blocks; beyond 10,000 waiting ends the oldest is given up."""
        with self._wake:
            self._watched.pop(program, None)
            accepted = not (self._closing or (self._off and not self.listeners))
            if accepted:
                self._queue.append((program, status))
            self._wake.notify()
            crowded_out = self._queue.popleft()[0] if len(self._queue) > _MAX_QUEUE else None
        if not accepted:
            program.settle(None)
            return
        self._keep_running()
        if crowded_out is not None:
            faults.record("too many ends of programs are waiting; the oldest is left to its lease")
            crowded_out.settle(None)

    def watch(self, program: Endable) -> None:
        """Look after `program` until it ends. Wakes nobody: there is nothing to do for a minute.

        Without a scope it is ended once it has been idle for a minute. In a scope its lease is renewed every 5 minutes
        that it is idle, for a day.
        """
        self._watch(program, IMPLICIT_IDLE_S)

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` of every program that finishes from now on, in this class's thread, until `close`.

        Beyond 10,000 that it has yet to be told of, the oldest is dropped, and counted.
        """
        with self._wake:
            self.listeners += (listener,)

    def remove_listener(self, listener: Listener) -> None:
        """Tell `listener` no more."""
        with self._wake:
            self.listeners = tuple(each for each in self.listeners if each != listener)

    def close(self, timeout_s: float = 1.0) -> None:
        """End the programs that are watched, post what is queued, and stop; return after `timeout_s` at the latest."""
        for program in self._take_due(float("inf")):
            program.end_if_idle(0.0)
        with self._wake:
            self._closing = True
            thread = self._thread
            self._wake.notify()
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(timeout_s)
        if self._finished:
            faults.record("watch was too slow at exit; not every program that finished is told about")
        self.listeners = ()  # they are not the caller's to run: they may be slow, or wait for a lock of the caller's
        with self._wake:
            left, self._queue = self._queue, deque()
        if left:
            faults.record("the backend was too slow at exit; ends of programs are left to their leases")
        for program, _ in left:
            program.settle(None)

    def _watch(self, program: Endable, for_s: float) -> None:
        with self._wake:
            self._watched[program] = due_s = monotonic() + for_s
            self._look_s = min(self._look_s, due_s)
        self._keep_running()

    def _keep_running(self) -> None:
        with self._wake:
            if self._thread is not None or self._closing:
                return
            thread = self._thread = threading.Thread(target=self._run, name="autellix-reporter", daemon=True)
        try:
            with detached():
                thread.start()
        except Exception as error:  # noqa: BLE001 the interpreter is shutting down, or somebody's wrapper raised
            self._thread = None
            faults.record("ends of programs can no longer be posted", error)
        except BaseException:  # Ctrl-C
            self._thread = None
            raise

    def _run(self) -> None:
        try:
            while self._wait():
                self._look()
                self._report(self._take_batch())
                self._tell()
        finally:  # whatever ended this thread, the next thing to do starts another
            with self._wake:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _wait(self) -> bool:
        """Wait until there are ends to post, or programs to tell of or to look at; false when the thread shall stop."""
        with self._wake:
            give_up_s = monotonic() + _LINGER_S
            while not (self._queue or self._finished):
                wait_s = (self._look_s if self._watched else give_up_s) - monotonic()
                if self._watched and wait_s <= 0:
                    break
                if self._closing or wait_s <= 0:
                    self._thread = None
                    return False
                # Not for longer than what is watched meanwhile, without waking this thread, may have to wait.
                self._wake.wait(min(max(wait_s, _LOOK_EVERY_S), IMPLICIT_IDLE_S))
            return True

    def _look(self) -> None:
        """Look after the watched programs whose time has come."""
        idle: list[Endable] = []
        for program in self._take_due(monotonic()):
            again_s = program.look_after(idle.append)
            if again_s > 0:
                self._watch(program, again_s)
        try:
            for program in idle:
                self._send(_OPEN_PATH, {"id": program.id})
        except Exception as error:  # noqa: BLE001 as for ends; the others may wait until they are due again
            faults.record("the lease of a program could not be renewed", error)

    def _take_due(self, now_s: float) -> list[Endable]:
        """Return the programs that are due, at most once a second: all that are watched are gone through."""
        with self._wake:
            if now_s < self._look_s:
                return []
            watched = self._watched.copy()  # the garbage collector runs code of the user's, which may end programs
            due = [program for program, due_s in watched.items() if due_s <= now_s]
            for program in due:
                self._watched.pop(program, None)
                del watched[program]
            self._look_s = max(min(watched.values(), default=inf), now_s + _LOOK_EVERY_S)
            return due

    def _take_batch(self) -> list[tuple[Endable, Status]]:
        with self._wake:
            return [self._queue.popleft() for _ in range(min(len(self._queue), _MAX_BATCH))]

    def _report(self, batch: list[tuple[Endable, Status]]) -> None:
        """Tell the backend, and hand over its answers; note which programs the listeners are to be told of."""
        bills: dict[str, ProgramBill] = {}
        try:
            bills = self._post(batch)
        except Exception as error:  # noqa: BLE001 a backend can fail in any way; the user's program goes on
            faults.record("the end of a program could not be posted", error)
        finished = [(program, status) for program, status in batch if program.settle(bills.get(program.id))]
        if self.listeners:
            self._finished += [(program.bill(), status) for program, status in finished]
        while len(self._finished) > _MAX_TOLD:
            self._finished.popleft()
            faults.record("watch is too slow; the oldest of the programs that finished is not told about")

    def _tell(self) -> None:
        """Tell the listeners what has finished, for a moment: they may be slow, and ends go first."""
        until_s = monotonic() + _TELL_S
        while self._finished:
            bill, status = self._finished.popleft()
            for listener in self.listeners:
                listener(bill, status)
            if monotonic() >= until_s:
                return

    def _post(self, batch: list[tuple[Endable, Status]]) -> dict[str, ProgramBill]:
        """Tell the backend; return the bills it sent, by program ID."""
        if not batch:
            return {}
        answer = self._send(
            _END_PATH, {"programs": [{"id": program.id, "status": status} for program, status in batch]}
        )
        results = [] if answer is None else answer["results"]
        return {result["id"]: bill for result in results if (bill := _read_bill(result)) is not None}

    def _send(self, path: str, body: dict[str, Any]) -> Any:
        """Post to the programs API and return the answer; `None` where the backend has no such thing."""
        if self._off:
            return None
        request = Request(f"{self._origin}{path}", json.dumps(body).encode(), self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=_POST_TIMEOUT_S) as response:
                return json.loads(response.read(_MAX_ANSWER_BYTES))
        except HTTPError as error:
            error.close()
            if error.code not in _NOT_THERE:
                raise
            self._off = True  # some other OpenAI-compatible server: nothing to tell it
            return None


def _read_bill(result: Any) -> ProgramBill | None:
    if not result.get("bill"):
        return None
    try:
        return program_bill_from_json(result["bill"])
    except WireError as error:
        faults.record("a program's time bill could not be read", error)
        return None
