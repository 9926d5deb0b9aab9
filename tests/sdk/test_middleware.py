"""ASGI and WSGI middleware: one program per request, also over one connection and through streamed bodies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import httpx
import pytest

import autellix_sdk as autellix
from autellix_sdk._faults import faults
from autellix_sdk.wire import CONTINUE_HEADER, PROGRAM_HEADER, CallContext
from tests.sdk.conftest import WAIT_S, Backend, call_here

pytestmark = pytest.mark.usefixtures("offline")
UNREADABLE = "who a job or request belongs to could not be read"


async def _acall() -> CallContext:
    await asyncio.sleep(0)
    return call_here()


def _http(**headers: str) -> dict[str, Any]:
    return {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}


async def _receive() -> dict[str, Any]:
    return {"type": "http.request"}


async def _send(message: Any) -> None:
    """Accept anything."""


class App:
    """An ASGI app that remembers the calls of each run."""

    def __init__(self) -> None:
        self.runs: list[list[CallContext]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer with two parts."""
        self.runs.append(calls := [call_here()])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(2):
            calls += await asyncio.gather(_acall(), asyncio.to_thread(call_here))
            await send({"type": "http.response.body", "body": b"part", "more_body": number < 1})
        calls.append(call_here())


async def test_requests_of_one_connection_are_apart() -> None:
    """A server may run one task per connection; its streamed bodies and their tasks belong to their request."""
    app = App()
    server = autellix.asgi(app, name="answer")
    between = []
    for _ in range(2):
        await server(_http(), _receive, _send)
        between.append(call_here())
    programs = [{call.program for call in run} for run in app.runs]
    assert [len(run) for run in programs] == [1, 1]
    assert len({*programs[0], *programs[1], between[0].program}) == 3
    assert between[0].program == between[1].program
    assert {call.name for run in app.runs for call in run} == {"answer"}
    assert [app.runs[0][5].parents, app.runs[1][0].parents] == [(app.runs[0][3].call, app.runs[0][4].call), ()]


async def test_a_websocket_is_one_program() -> None:
    """From its connection to its end."""
    calls = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            calls.append(call_here())

    messages = iter(["websocket.connect", "websocket.receive", "websocket.disconnect"])

    async def receive() -> dict[str, Any]:
        return {"type": next(messages)}

    await autellix.asgi(app)({"type": "websocket", "headers": []}, receive, _send)
    assert calls[1].parents == (calls[0].call,)
    assert calls[0].program == calls[1].program != call_here().program


async def test_the_lifespan_of_an_app_is_no_program() -> None:
    """Its scope passes through, with what it is called with."""
    seen: list[Any] = []

    async def app(*args: Any) -> None:
        seen.extend((*args, autellix.current()))

    scope = {"type": "lifespan"}
    await autellix.asgi(app)(scope, _receive, _send)
    assert seen == [scope, _receive, _send, None]


async def test_errors_of_the_app_pass_through(backend: Backend) -> None:
    """The very exception, also a cancellation; the program ended with an error."""
    autellix.init(backend.base_url)
    errors = [LookupError("mine"), asyncio.CancelledError()]
    ids = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ids.append(call_here().program)
        raise error

    for error in errors:
        with pytest.raises(type(error)) as caught:
            await autellix.asgi(app)(_http(), _receive, _send)
        assert caught.value is error
    autellix.shutdown()
    assert backend.ended() == dict.fromkeys(ids, "error")


async def test_a_client_that_streams_from_an_app() -> None:
    """Through a transport that is not ours."""
    app = App()
    transport = httpx.ASGITransport(autellix.asgi(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        answers = await asyncio.gather(client.get("/"), client.get("/"))
    assert [answer.text for answer in answers] == ["partpart"] * 2
    assert len({call.program for run in app.runs for call in run}) == 2


async def test_a_sender_is_followed_only_where_callers_are_trusted() -> None:
    """By default every request is its own program, whatever it says; what cannot be read is its own as well."""
    app = App()
    with autellix.program("sender") as p:
        start = call_here()
        headers = autellix.inject()
    await autellix.asgi(app)(_http(**headers), _receive, _send)
    trusting = autellix.asgi(app, trust_callers=True)
    await trusting(_http(**headers), _receive, _send)
    await trusting(_http(**{PROGRAM_HEADER: p.id}), _receive, _send)
    assert not faults.counts[UNREADABLE]
    twice = _http(**headers)
    twice["headers"] *= 2
    await trusting(twice, _receive, _send)
    followed = [run[0].program == p.id for run in app.runs]
    assert followed == [False, True, False, False]
    assert app.runs[1][0].parents == (start.call,)
    assert len({run[0].program for run in app.runs}) == 4
    assert faults.counts[UNREADABLE] == 1


def test_a_name_that_cannot_be_sent_is_refused_at_once() -> None:
    """When the server starts, not when the first request comes."""
    with pytest.raises(autellix.UsageError, match="program name"):
        autellix.asgi(App(), name="x" * 200)
    with pytest.raises(autellix.UsageError, match="program name"):
        autellix.wsgi(Pages(), name="x" * 200)


class Pages:
    """A WSGI app that remembers who its calls were made as, by path."""

    def __init__(self) -> None:
        self.calls: dict[str, list[CallContext]] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer with a list, or with two parts."""
        calls = self.calls[environ["PATH_INFO"]] = [call_here()]
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/list":
            return [b"list"]
        return self._stream(calls)

    def _stream(self, calls: list[CallContext]) -> Iterator[bytes]:
        try:
            for _ in range(2):
                calls.append(call_here())
                yield b"part"
        finally:
            calls.append(call_here())


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base class's name
        """Keep quiet."""


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Serve a WSGI app with the standard library's server, in one thread; return its URL."""
    started: list[tuple[WSGIServer, threading.Thread]] = []

    def start(app: Any) -> str:
        server = make_server("127.0.0.1", 0, app, handler_class=_Quiet)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        started.append((server, thread))
        thread.start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join(WAIT_S)
        server.server_close()


def test_requests_of_one_server_thread_are_apart(serve: Callable[[Any], str]) -> None:
    """Each is a program, to the end of its streamed body; both sides keep to the WSGI protocol."""
    pages = Pages()
    url = serve(validator(autellix.wsgi(validator(pages))))
    with httpx.Client(base_url=url) as client:
        answers = [client.get("/list"), client.get("/stream"), client.get("/again")]
    assert [answer.text for answer in answers] == ["list", "partpart", "partpart"]
    assert len({call.program for calls in pages.calls.values() for call in calls}) == 3
    assert [call.parents for call in pages.calls["/stream"]] == [(), ("0.0",), ("0.1",), ("0.2",)]


def test_lists_and_files_are_passed_on_as_they_are(serve: Callable[[Any], str]) -> None:
    """So that a server can tell their length, or send them without reading."""
    pages = Pages()
    with httpx.Client(base_url=serve(autellix.wsgi(pages))) as client:
        assert client.get("/list").headers["content-length"] == "4"
    file = FileWrapper(open(__file__, "rb"))  # noqa: SIM115 closed below
    environ = {"wsgi.file_wrapper": FileWrapper}
    assert autellix.wsgi(lambda *_: file)(environ, lambda *_: None) is file
    file.close()


def test_a_streamed_body_is_in_scope_only_while_it_runs(backend: Backend) -> None:
    """On whichever thread the server iterates; the program ends when the server closes it, even unread."""
    autellix.init(backend.base_url)
    pages = Pages()
    app = autellix.wsgi(pages)
    body: Any = app({"PATH_INFO": "/read"}, lambda *_: None)
    unread: Any = app({"PATH_INFO": "/unread"}, lambda *_: None)
    assert autellix.current() is None
    with ThreadPoolExecutor(1) as pool:
        assert [next(body), pool.submit(next, body).result(WAIT_S)] == [b"part"] * 2
    assert list(body) == []
    assert autellix.current() is None
    for each in (body, unread, body):
        each.close()
    autellix.shutdown()
    calls = pages.calls["/read"]
    assert [call.call for call in calls] == ["0.0", "0.1", "0.2", "0.3"]
    assert backend.ended() == {calls[0].program: "ok", pages.calls["/unread"][0].program: "ok"}


def test_a_body_need_not_have_a_close(backend: Backend) -> None:
    """Any iterable is a body; ours is closed all the same."""
    autellix.init(backend.base_url)
    body: Any = autellix.wsgi(lambda *_: iter([call_here().program.encode()]))({}, lambda *_: None)
    (program,) = body
    body.close()
    autellix.shutdown()
    assert backend.ended() == {program.decode(): "ok"}


def test_errors_of_a_wsgi_app_pass_through(backend: Backend) -> None:
    """From the call, from the body and from closing it: the very exception, and the program ended with an error."""
    autellix.init(backend.base_url)
    error, ids = LookupError("mine"), []

    class Fails:
        def __init__(self, method: str) -> None:
            self._method = method

        def __iter__(self) -> Iterator[bytes]:
            self._maybe_fail("iter")
            return iter(())

        def close(self) -> None:
            self._maybe_fail("close")

        def _maybe_fail(self, method: str) -> None:
            if method == self._method:
                raise error

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        ids.append(call_here().program)
        if environ["fails"] == "call":
            raise error
        return Fails(environ["fails"])

    for fails in ("call", "iter", "close"):

        def serve_one(fails: str = fails) -> None:
            body: Any = autellix.wsgi(app)({"fails": fails}, lambda *_: None)
            try:
                list(body)
            finally:
                body.close()

        with pytest.raises(LookupError) as caught:
            serve_one()
        assert caught.value is error
    autellix.shutdown()
    assert backend.ended() == dict.fromkeys(ids, "error")
    assert len(ids) == 3


def test_a_wsgi_sender_is_followed_only_where_callers_are_trusted() -> None:
    """The same choice as for ASGI."""
    pages = Pages()
    with autellix.program("sender") as p:
        environ = {"HTTP_X_AUTELLIX_CONTINUE": autellix.inject()[CONTINUE_HEADER], "PATH_INFO": "/list"}
    programs = []
    for trust_callers in (False, True):
        autellix.wsgi(pages, trust_callers=trust_callers)(environ, lambda *_: None)
        programs.append(pages.calls["/list"][0].program)
    assert programs[1] == p.id != programs[0]
