"""A real backend on loopback for the client to talk to, and a clean client around every test."""

from __future__ import annotations

import importlib
import importlib.util
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import autellix_sdk as autellix
from autellix_sdk import _spawns
from autellix_sdk._faults import faults
from autellix_sdk._runtime import runtime
from autellix_sdk._strands import Strand, fork_task
from autellix_sdk.bill import CallBill, ProgramBill, TimeSplit
from autellix_sdk.wire import BILL_HEADER, CALL_HEADER, PROGRAM_HEADER, CallContext, ProgramId, decode_call

BASE_URL = "http://127.0.0.1:9/v1"
"""Of a backend that is never called."""

WAIT_S = 10.0
"""Longest wait for another thread; only a failing test gets that far."""


libraries = pytest.mark.parametrize(
    "library", [importlib.import_module(name) for name in ("httpx", "httpx2") if importlib.util.find_spec(name)]
)
"""Every HTTP library that is here: both of them, but in the environment with openai 2 httpx alone."""


@dataclass
class Seen:
    """One request as the backend saw it."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def context(self) -> CallContext | None:
        """Its call, or `None` when it was not stamped."""
        if CALL_HEADER not in self.headers:
            return None
        return decode_call(self.headers[PROGRAM_HEADER], self.headers[CALL_HEADER])


@dataclass
class Backend:
    """A small OpenAI-compatible server with the programs API.

    Attributes:
        calls: requests to ``/v1``, in order of arrival.
        ends: bodies posted to the programs API.
        renewals: programs whose lease was renewed.
        statuses: HTTP statuses for the next calls; 200 once it is empty.
        redirect_to: where calls are redirected, if set, and ends whose status says so.
        end_status: HTTP status of the programs API.
        bill: makes the bill of a program that ended; `None` bills nothing.
    """

    url: str = ""
    calls: list[Seen] = field(default_factory=list)
    ends: list[Seen] = field(default_factory=list)
    renewals: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    redirect_to: str | None = None
    end_status: int = 200
    bill: Callable[[str], ProgramBill | None] = lambda _: None
    end_arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    may_answer_end: threading.Event = field(default_factory=threading.Event)

    @property
    def base_url(self) -> str:
        """What `init` and the OpenAI client take."""
        return self.url + "/v1"

    @property
    def contexts(self) -> list[CallContext]:
        """The calls that were stamped, in order of arrival."""
        return [seen.context for seen in self.calls if seen.context is not None]

    def ended(self) -> dict[str, str]:
        """Status by program ID, of all programs whose end was posted."""
        return {end["id"]: end["status"] for seen in self.ends for end in json.loads(seen.body)["programs"]}

    def wait_for_end(self) -> None:
        """Wait until one more batch of ends has arrived."""
        assert self.end_arrived.acquire(timeout=WAIT_S)


def call_here() -> CallContext:
    """Begin a call where the caller stands, and return what it says; none is made."""
    headers = autellix.headers()
    return decode_call(headers[PROGRAM_HEADER], headers[CALL_HEADER])


def call_bill(program: str, call: str) -> CallBill:
    """A bill with round numbers."""
    time = TimeSplit({"admission": 100}, prefill_us=200, decode_us=300, other_us=50)
    return CallBill(ProgramId(program), decode_call(program, call).call, "engine-0", time, 500, 7, 3, 2)


def program_bill(program: str) -> ProgramBill:
    """A server's bill of a whole program."""
    values: dict[str, Any] = {"program": ProgramId(program), "name": "server", "time": TimeSplit(decode_us=1234)}
    counts = dict.fromkeys(("calls", "pending", "threads", "service_us", "prompt_tokens", "cached_tokens"), 5)
    more = dict.fromkeys(("output_tokens", "preemptions", "elapsed_us", "tool_us"), 5)
    return ProgramBill(**(values | counts | more))


class Handler(BaseHTTPRequestHandler):
    """Answers for a `Backend`; a subclass may answer calls in its own way."""

    protocol_version = "HTTP/1.1"
    backend: Backend

    def do_POST(self) -> None:
        """Take down the request and answer it."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.path, headers, body)
        if self.path == "/autellix/v1/programs":
            self._renew(seen)
        elif self.path.startswith("/autellix/"):
            self._end(seen)
        else:
            self._call(seen)

    def do_GET(self) -> None:
        """Do as `do_POST` does."""
        self.do_POST()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base class's name
        """Keep quiet."""

    def _renew(self, seen: Seen) -> None:
        self.backend.renewals.append(json.loads(seen.body)["id"])
        self._answer(self.backend.end_status, {})

    def _end(self, seen: Seen) -> None:
        backend = self.backend
        backend.ends.append(seen)
        backend.end_arrived.release()
        backend.may_answer_end.wait(WAIT_S)
        results = [
            {"id": end["id"], "status": 200, "bill": bill.to_json() if bill else None}
            for end in json.loads(seen.body)["programs"]
            for bill in [backend.bill(end["id"])]
        ]
        leads_away = {"location": backend.redirect_to} if backend.redirect_to is not None else None
        self._answer(backend.end_status, {"results": results}, leads_away)

    def _call(self, seen: Seen) -> None:
        backend = self.backend
        backend.calls.append(seen)
        if backend.redirect_to is not None:
            self._answer(307, {}, {"location": backend.redirect_to})
            return
        status = backend.statuses.pop(0) if backend.statuses else 200
        if status != 200:
            self._answer(status, {"error": {"message": "try again"}}, {"retry-after-ms": "1"})
        elif b'"stream":true' in seen.body.replace(b" ", b""):
            self._stream()
        else:
            message = {"role": "assistant", "content": "yes"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            billed = PROGRAM_HEADER in seen.headers
            bill = call_bill(seen.headers[PROGRAM_HEADER], seen.headers[CALL_HEADER]) if billed else None
            self._answer(200, answer, {BILL_HEADER: bill.encode()} if bill else {})

    def _stream(self) -> None:
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": []}
        body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for _ in range(3)) + b"data: [DONE]\n\n"
        self._send(body, "text/event-stream")

    def _answer(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(answer).encode(), "application/json", status, headers)

    def _send(self, body: bytes, kind: str, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def serve(backend: Backend, handler: type[Handler] = Handler) -> Iterator[Backend]:
    """Serve a backend on loopback until the iterator is closed or asked for more."""
    backend.may_answer_end.set()
    with _Server(("127.0.0.1", 0), type("BoundHandler", (handler,), {"backend": backend})) as server:
        backend.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield backend
        autellix.shutdown()
        server.shutdown()
        thread.join(WAIT_S)


@pytest.fixture
def backend() -> Iterator[Backend]:
    """The backend."""
    yield from serve(Backend())


@pytest.fixture
def elsewhere() -> Iterator[Backend]:
    """Another server, which must never see our headers."""
    yield from serve(Backend())


@pytest.fixture(autouse=True)
def clean_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings from the environment; faults are raised; the client is off before and after, as in a new process."""
    ours = ("AUTELLIX_BASE_URL", "AUTELLIX_API_KEY", "AUTELLIX_DIALECTS")
    for name in (*ours, "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(faults, "strict", True)
    monkeypatch.setattr(runtime, "carries", False)
    faults.counts.clear()
    yield
    autellix.shutdown()


@pytest.fixture
def offline(clean_client: None) -> None:
    """The client is on; no call leaves the process."""
    autellix.init(BASE_URL)


@pytest.fixture
def offline_explicit(clean_client: None) -> None:
    """The same, with calls outside any scope left alone."""
    autellix.init(BASE_URL, implicit="off")


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> list[Strand | None]:
    """What has been forked for tasks, in order of their creation."""
    forked: list[Strand | None] = []

    def fork_and_keep() -> Strand | None:
        forked.append(fork_task())
        return forked[-1]

    monkeypatch.setattr(_spawns, "fork_task", fork_and_keep)
    return forked


def finishes(function: Callable[[], Any]) -> Any:
    """Return what `function` returns; fail, rather than hang, if it waits for itself."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(WAIT_S)
    assert results, "it raised or hangs"
    return results[0]


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults are counted, as in production."""
    monkeypatch.setattr(faults, "strict", False)
