"""What a hostile server, sender or user tries: nothing of ours leaves the backend, nothing is raised into a call.

Redirects to other hosts, copies for them, look-alike URLs one by one and bills that cannot be read have their tests in
``test_intercept.py``, ``test_aiohttp.py``, ``test_settings.py`` and ``test_ledger.py``.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import autellix_sdk as autellix
from autellix_sdk._faults import faults
from autellix_sdk.wire import (
    BILL_HEADER,
    CALL_HEADER,
    CONTINUE_HEADER,
    MAX_HEADER_BYTES,
    PROGRAM_HEADER,
    decode_call,
)
from tests.sdk.conftest import WAIT_S, Backend, Handler, Seen, call_here, libraries, serve

BACKEND = "http://localhost:9/v1"
DIALECTS = ("dynamo", "sglang", "vllm", "llm-d", "x-session-id", "litellm", "helicone")

ELSEWHERE = [
    "http://evil:9/v1/models",
    "https://localhost:9/v1/models",
    "http://localhost/v1/models",
    "http://localhost:9@evil/v1/models",
    "http://localhost%3A9@evil:9/v1/models",
    "http://localhost:9%2Fv1@evil/v1",
    "http://evil/http://localhost:9/v1/models",
    "http://evil:9/v1/models#@localhost:9/v1",
    "http://evil:9/v1/models?x=@localhost:9/v1",
    "http://localhost.evil:9/v1/models",
    "http://localhost.:9/v1/models",
    "http://xn--lcalhost-nbh:9/v1/models",
    "http://localhost:9/v1/../admin",
    "http://localhost:9/v1/%2e%2e/admin",
    "http://localhost:9/v1/%2E./admin",
    "http://localhost:9/v1/.%2e/%2e%2e/admin",
    "http://localhost:9/v1/x/..%2f..%2fadmin",
    "http://localhost:9/%76%31/../admin",
    "http://localhost:9//v1/models",
    "http://localhost:9/V1/models",
    "http://localhost:9/v1;x/models",
    "http://localhost:9/v1%00/models",
]
"""Places that are not the backend, however much they look like it."""


class Net:
    """Every host there is: it answers, records what it was sent, and redirects where it is told to."""

    def __init__(self, library: Any, redirect_to: str | None = None) -> None:
        self.seen: list[Any] = []
        self._library = library
        self._redirect_to = redirect_to

    def __call__(self, request: Any) -> Any:
        """Answer."""
        self.seen.append(request)
        if self._redirect_to is not None and len(self.seen) == 1:
            return self._library.Response(307, headers={"location": self._redirect_to})
        return self._library.Response(200)


def _said(request: Any) -> str:
    """Everything that a request carries, but its address."""
    return repr((sorted(request.headers.items()), request.read())).replace(request.headers["host"], "")


def _is_silent(request: Any, program: str) -> bool:
    """Whether it says nothing of a program."""
    return not {PROGRAM_HEADER, CALL_HEADER, CONTINUE_HEADER} & set(request.headers) and program not in _said(request)


@libraries
@pytest.mark.parametrize("url", ELSEWHERE)
def test_nothing_is_said_elsewhere(library: Any, url: str) -> None:
    """Neither directly nor by a redirect of the backend's, in no dialect, with `inject` and by hand."""
    autellix.init(BACKEND, dialects=DIALECTS)
    for start in (url, BACKEND + "/models"):
        net = Net(library, redirect_to=url if start != url else None)
        transport = library.MockTransport(net)
        with library.Client(transport=transport, follow_redirects=True) as client, autellix.program() as p:
            by_hand = {name: autellix.headers()[name] for name in (PROGRAM_HEADER, CALL_HEADER)}
            client.post(start, json={"model": "m"}, headers=by_hand)
        assert _is_silent(net.seen[-1], p.id), _said(net.seen[-1])
        assert (len(net.seen) == 2) == (start != url)


@libraries
async def test_nothing_is_said_elsewhere_by_the_async_client(library: Any) -> None:
    """The same hook, awaited."""
    autellix.init(BACKEND, dialects=DIALECTS)
    for url in ELSEWHERE:
        net = Net(library, redirect_to=url)
        transport = library.MockTransport(net)
        async with library.AsyncClient(transport=transport, follow_redirects=True) as client, autellix.program() as p:
            await client.post(BACKEND + "/models", json={"model": "m"})
        assert _is_silent(net.seen[-1], p.id), url


@libraries
def test_what_was_injected_for_a_worker_is_not_led_away(library: Any) -> None:
    """To another origin that looks like the worker's."""
    autellix.init(BACKEND)
    for url in ("http://worker@evil/", "https://worker/", "http://worker:81/", "http://worker.evil/", "//evil/"):
        net = Net(library, redirect_to=url)
        with (
            library.Client(transport=library.MockTransport(net), follow_redirects=True) as client,
            autellix.program() as p,
        ):
            client.post("http://worker/", headers=autellix.inject())
        assert CONTINUE_HEADER in net.seen[0].headers
        assert _is_silent(net.seen[1], p.id), url


@libraries
def test_user_information_in_the_backends_own_url_changes_nothing(library: Any) -> None:
    """A password there is the client's business: the call is stamped, and the stamp says nothing of it."""
    autellix.init("http://user:secret@localhost:9/v1")
    net = Net(library)
    with library.Client(transport=library.MockTransport(net)) as client, autellix.program() as p:
        client.get("http://other:word@localhost:9/v1/models")
    assert net.seen[0].headers[PROGRAM_HEADER] == p.id
    assert "secret" not in _said(net.seen[0])


@pytest.mark.parametrize(
    "text", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b", "x" * 70_000, "ü", "", " ", "a b", "a/../b"]
)
def test_ids_that_would_break_a_header_are_refused_where_the_scope_is_made(text: str) -> None:
    """Not in the call, which is too late; the message is short."""
    with pytest.raises(autellix.UsageError) as refused:
        autellix.program(id=text)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["x" * 70_000, "\r\n" * 30_000, "ü" * 70_000])
def test_names_of_70_kilobytes_are_refused_where_the_scope_is_made(name: str) -> None:
    """By `program` and by the middleware, before any request."""
    for make in (
        lambda: autellix.program(name),
        lambda: autellix.asgi(lambda: None, name=name),  # type: ignore[arg-type, return-value]
        lambda: autellix.wsgi(list, name=name),
    ):
        with pytest.raises(autellix.UsageError) as refused:
            make()
        assert len(str(refused.value)) < 300


@libraries
@pytest.mark.parametrize("name", ["a\r\nx-evil: 1", "\0\x7f\x1b[31m", "\ud800", "名前 🦊", "; n=x; c=9.9", "%0d%0a"])
def test_any_name_that_fits_is_sent_safely(library: Any, name: str) -> None:
    """In our own header and in every dialect; nothing in it becomes a header of its own or a field of ours."""
    autellix.init(BACKEND, dialects=DIALECTS)
    net = Net(library)
    with library.Client(transport=library.MockTransport(net)) as client, autellix.program(name) as p:
        client.post(BACKEND + "/models", json={"model": "m"})
    headers = net.seen[0].headers
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert "x-evil" not in headers
    context = decode_call(headers[PROGRAM_HEADER], headers[CALL_HEADER])
    assert (context.program, context.call, context.name) == (p.id, "0.0", name.encode(errors="replace").decode())


@libraries
async def test_a_call_with_five_thousand_parents(library: Any) -> None:
    """Says that it joins them all, in a short header; so does what is carried away after them."""
    autellix.init(BACKEND)
    net = Net(library)

    async def branch() -> None:
        call_here()

    async with library.AsyncClient(transport=library.MockTransport(net)) as client, autellix.program("x" * 128):
        await asyncio.gather(*(branch() for _ in range(5000)))
        carried = autellix.inject()
        await client.get(BACKEND + "/models")
        await client.get(BACKEND + "/models")
    first, second = (decode_call(each.headers[PROGRAM_HEADER], each.headers[CALL_HEADER]) for each in net.seen)
    assert (first.parents, second.parents) == (None, (first.call,))
    assert len(net.seen[0].headers[CALL_HEADER]) < MAX_HEADER_BYTES
    assert ";p=*;" in carried[CONTINUE_HEADER]
    assert len(carried[CONTINUE_HEADER]) < MAX_HEADER_BYTES


@pytest.mark.parametrize(
    "value",
    ["v1;i=a\r\nx-evil: 1;p=", "v1;i=" + "p" * 70_000, "v1;i=p;p=" + "a.0.0," * 5000, "\0", "v1" + ";" * 70_000],
)
async def test_what_senders_carry_in_is_not_believed(value: str) -> None:
    """Through `extract` and through middleware that trusts its callers: the work runs, as a program of its own."""
    autellix.init(BACKEND)
    with autellix.extract({CONTINUE_HEADER: value}).attach():
        assert call_here().parents == ()
    served = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        served.append(call_here())

    scope = {"type": "http", "headers": [(CONTINUE_HEADER.encode(), value.encode("latin-1"))]}
    await autellix.asgi(app, trust_callers=True)(scope, None, None)
    assert len(served) == 1
    assert list(faults.counts.values()) == [2]


@libraries
@pytest.mark.parametrize(
    "bill", ["[" * 60_000, '{"a":' * 10_000, "9" * 60_000, "null", '{"level":[0,0],"queued_us":{}}', "é"]
)
def test_bills_of_hostile_servers_are_counted(library: Any, bill: str) -> None:
    """The call and the program's own bill are there all the same."""
    autellix.init(BACKEND)
    answer = {BILL_HEADER.encode(): bill.encode("latin-1")}
    transport = library.MockTransport(lambda _: library.Response(200, headers=answer, text="yes"))
    with library.Client(transport=transport) as client, autellix.program() as p:
        assert client.get(BACKEND + "/models").text == "yes"
        assert (p.bill().calls, p.bill().pending) == (0, 1)
        assert "0 calls" in str(p.bill()) or "pending" in str(p.bill())
    assert faults.counts == {"a time bill could not be read": 1}


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        (b"", 1),
        (b"<html>", 1),
        (b"[]", 1),
        (b"{}", 1),
        (b"null", 0),
        (b'{"results":null}', 1),
        (b'{"results":[1]}', 1),
        (b'{"results":[{}]}', 0),
        (b'{"results":[{"id":"p","bill":7}]}', 1),
        (b'{"results":[{"id":"p","bill":{"queued_us":[]}}]}', 1),
        (b"[" * 200_000, 1),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_answers_of_hostile_servers_to_an_end_are_counted(answer: bytes, counted: int, lenient: None) -> None:
    """Once each, if they are more than empty; the program keeps its own bill, and nobody waits for another."""

    class Hostile(Handler):
        def _end(self, seen: Seen) -> None:
            self._send(answer, "application/json")

    for backend in serve(Backend(), Hostile):
        autellix.init(backend.base_url)
        with autellix.program(id="p") as p:
            call_here()
        assert p.bill(WAIT_S).pending == 1
        assert list(faults.counts.values()) == [1] * counted
