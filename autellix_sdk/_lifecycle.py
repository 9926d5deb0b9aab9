"""The end of programs, told to the backend in the background: one daemon thread, standard library only.

Losing an end is harmless, because the server ends programs by lease. So this side never retries, never blocks the
user's code, and gives itself one second at exit.
"""

from __future__ import annotations

import json
import threading
from collections import deque
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
"""An implicit program ends after this long without a call in flight."""

_PATH = "/autellix/v1/programs/end"
_POST_TIMEOUT_S = 5.0
_LINGER_S = 10.0
_MAX_QUEUE = 10_000
_MAX_BATCH = 256


class Endable(Protocol):
    """A program whose end can be told to the backend."""

    id: ProgramId

    def settle(self, bill: ProgramBill | None) -> None:
        """The backend was told, or could not be; `bill` is the whole program's, where it sent one."""

    def idle_s(self) -> float:
        """Seconds without a call in flight."""

    def end(self, status: Status = "ok") -> None:
        """End the program, which comes back as a call of `Reporter.end`."""


class _NoRedirect(HTTPRedirectHandler):
    """Follow no redirect: it would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Reporter:
    """Posts the ends of programs in batches, and ends implicit programs that have gone idle.

    Its thread starts with the first thing to do and stops 10 s after the last.

    Args:
        origin: scheme, host and port of the backend.
        api_key: sent as a bearer token; `None` sends none.
    """

    def __init__(self, origin: str, api_key: str | None) -> None:
        self._url = origin + _PATH
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._opener = build_opener(_NoRedirect)
        self._off = False
        self._closing = False
        self.after_fork()

    def after_fork(self) -> None:
        """Forget, in a forked process, what the other process will report, and the thread that stayed there."""
        self._wake = threading.Condition()
        self._queue: deque[tuple[Endable, Status]] = deque()
        self._implicit: set[Endable] = set()
        self._thread: threading.Thread | None = None

    def end(self, program: Endable, status: Status) -> None:
        """Queue the end of a program. Never blocks; beyond 10,000 waiting ends the oldest is given up."""
        with self._wake:
            self._implicit.discard(program)
            if self._off or self._closing:
                program.settle(None)
                return
            if len(self._queue) == _MAX_QUEUE:
                self._queue.popleft()[0].settle(None)
                faults.record("too many ends of programs are waiting; the oldest is left to its lease")
            self._queue.append((program, status))
            self._awaken()

    def watch(self, program: Endable) -> None:
        """End `program` once it has been idle for a minute."""
        with self._wake:
            self._implicit.add(program)
            self._awaken()

    def close(self, timeout_s: float = 1.0) -> None:
        """End the implicit programs, post what is queued, and stop; return after `timeout_s` at the latest."""
        with self._wake:
            for program in list(self._implicit):
                program.end()
            self._closing = True
            thread = self._thread
            self._wake.notify()
        if thread is not None:
            thread.join(timeout_s)
        with self._wake:
            if self._queue:
                faults.record("the backend was too slow at exit; ends of programs are left to their leases")
            while self._queue:
                self._queue.popleft()[0].settle(None)

    def _awaken(self) -> None:
        if self._thread is None and not self._closing:
            thread = threading.Thread(target=self._run, name="autellix-reporter", daemon=True)
            try:
                with detached():
                    thread.start()
            except RuntimeError as error:  # the interpreter is shutting down
                faults.record("ends of programs can no longer be posted", error)
                return
            self._thread = thread
        self._wake.notify()

    def _run(self) -> None:
        while batch := self._next_batch():
            bills: dict[str, ProgramBill] = {}
            try:
                bills = self._post(batch)
            except Exception as error:  # noqa: BLE001 a backend can fail in any way; the user's program goes on
                faults.record("the end of a program could not be posted", error)
            for program, _ in batch:
                program.settle(bills.get(program.id))

    def _next_batch(self) -> list[tuple[Endable, Status]]:
        """Wait for ends to post; empty when the thread shall stop."""
        with self._wake:
            give_up_s = monotonic() + _LINGER_S
            while not self._queue:
                wait_s = self._end_idle()
                if self._queue:
                    break
                if not self._implicit:
                    wait_s = give_up_s - monotonic()
                if self._closing or wait_s <= 0:
                    self._thread = None
                    break
                self._wake.wait(wait_s)
            return [self._queue.popleft() for _ in range(min(len(self._queue), _MAX_BATCH))]

    def _end_idle(self) -> float:
        """End implicit programs that are idle; return how many seconds until the next one can be."""
        next_s = IMPLICIT_IDLE_S
        for program in list(self._implicit):
            left_s = IMPLICIT_IDLE_S - program.idle_s()
            if left_s <= 0:
                program.end()
            else:
                next_s = min(next_s, left_s)
        return next_s

    def _post(self, batch: list[tuple[Endable, Status]]) -> dict[str, ProgramBill]:
        """Tell the backend; return the bills it sent, by program ID."""
        if self._off:
            return {}
        body = json.dumps({"programs": [{"id": program.id, "status": status} for program, status in batch]})
        request = Request(self._url, body.encode(), self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=_POST_TIMEOUT_S) as response:
                results = json.load(response)["results"]
        except HTTPError as error:
            error.close()
            if error.code != 404:
                raise
            self._off = True  # some other OpenAI-compatible server: nothing to tell it
            return {}
        return {result["id"]: bill for result in results if (bill := _read_bill(result)) is not None}


def _read_bill(result: Any) -> ProgramBill | None:
    if not result.get("bill"):
        return None
    try:
        return program_bill_from_json(result["bill"])
    except WireError as error:
        faults.record("a program's time bill could not be read", error)
        return None
