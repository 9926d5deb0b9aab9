"""Calls made with aiohttp itself, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

import autellix_sdk as autellix
from autellix_sdk import _aiohttp
from autellix_sdk._aiohttp import _Address, _redirected, _Trip
from autellix_sdk._faults import faults
from autellix_sdk._settings import Endpoint
from autellix_sdk.wire import CALL_HEADER, CONTINUE_HEADER, PROGRAM_HEADER
from tests.sdk.conftest import WAIT_S, Backend

QUESTION: Any = {"model": "m", "messages": [{"role": "user", "content": "is it?"}]}
STREAM = QUESTION | {"stream": True}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session made before `init`."""
    async with aiohttp.ClientSession(trace_configs=[autellix.aiohttp_trace_config()]) as session:
        yield session


async def _ask(session: aiohttp.ClientSession, backend: Backend, **options: Any) -> Any:
    url = backend.base_url + "/chat/completions"
    async with session.post(url, **({"json": QUESTION} | options)) as response:
        return await response.json(content_type=None) if response.content_type != "text/event-stream" else None


async def test_calls_are_stamped_and_billed(backend: Backend, session: aiohttp.ClientSession) -> None:
    """In their program and thread, side by side too; the user's own headers stay."""
    autellix.init(backend.base_url)
    async with autellix.program("ask") as p:
        await _ask(session, backend, headers={"x-mine": "1"})
        await asyncio.gather(_ask(session, backend), _ask(session, backend))
    first, second, third = backend.contexts
    assert (first.program, first.name, first.call, first.parents) == (p.id, "ask", "0.0", ())
    assert {second.call, third.call} == {"0.1", "1.0"}
    assert second.parents == third.parents == ("0.0",)
    assert backend.calls[0].headers["x-mine"] == "1"
    assert (p.bill().calls, p.bill().pending) == (3, 0)
    assert p.ledger.idle_s() > 0


async def test_nothing_is_touched_while_the_client_is_off(backend: Backend, session: aiohttp.ClientSession) -> None:
    """Before `init`, after `shutdown`, and without a backend."""
    await _ask(session, backend)
    autellix.init(backend.base_url)
    autellix.shutdown()
    await _ask(session, backend, headers={"x-mine": "1"})
    autellix.init()
    await _ask(session, backend)
    autellix.init(backend.base_url, implicit="off")
    await _ask(session, backend)
    assert (backend.contexts, len(backend.calls)) == ([], 4)


async def test_a_stream_is_in_flight_until_its_last_byte(backend: Backend, session: aiohttp.ClientSession) -> None:
    """Its bill is pending; time after it is tool time."""
    autellix.init(backend.base_url)
    async with autellix.program() as p:
        async with session.post(backend.base_url + "/chat/completions", json=STREAM) as response:
            assert (await response.read()).endswith(b"[DONE]\n\n")
            assert p.ledger.idle_s() > 0
        assert (p.bill().calls, p.bill().pending) == (0, 1)


@pytest.mark.parametrize("drop", [True, False])
async def test_a_response_that_is_given_up_is_over(session: aiohttp.ClientSession, drop: bool) -> None:
    """Closed before its last byte, or dropped."""

    gone = asyncio.Event()

    async def begin_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n1")
        await reader.read()
        writer.close()
        gone.set()

    async with await asyncio.start_server(begin_only, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        autellix.init(url)
        async with autellix.program() as p:
            response = await session.get(url)
            assert p.ledger.idle_s() == 0
            response.close()
            if drop:
                del response
                gc.collect()
            assert p.ledger.idle_s() > 0
            await asyncio.wait_for(gone.wait(), WAIT_S)


async def test_a_failed_call_brings_no_bill(session: aiohttp.ClientSession, backend: Backend) -> None:
    """Refused by the server, or never there."""
    autellix.init(backend.base_url)
    backend.statuses = [500]
    async with autellix.program() as p:
        with pytest.raises(aiohttp.ClientResponseError):
            await _ask(session, backend, raise_for_status=True)
        with pytest.raises(asyncio.TimeoutError):
            await session.post(backend.base_url, timeout=aiohttp.ClientTimeout(total=1e-9))
    assert (p.bill().calls, p.bill().pending) == (0, 0)
    assert p.ledger.idle_s() > 0


async def test_retries_repeat_the_call_id(backend: Backend, session: aiohttp.ClientSession) -> None:
    """Where the request says that it is one, as clients of the kind of openai's do."""
    autellix.init(backend.base_url)
    backend.statuses = [503]
    async with autellix.program() as p:
        await _ask(session, backend)
        await _ask(session, backend, headers={"x-stainless-retry-count": "1"})
        await _ask(session, backend)
    assert [(context.call, context.retry) for context in backend.contexts] == [("0.0", 0), ("0.0", 1), ("0.1", 0)]
    assert (p.bill().calls, p.bill().pending) == (2, 0)


async def test_redirects_to_another_host_lose_our_headers(
    backend: Backend, elsewhere: Backend, session: aiohttp.ClientSession
) -> None:
    """The user's own go wherever aiohttp sends them."""
    backend.redirect_to = elsewhere.base_url + "/chat/completions"
    autellix.init(backend.base_url)
    async with autellix.program():
        await _ask(session, backend, headers={"x-mine": "1"})
    assert len(backend.contexts) == 1
    assert elsewhere.calls[0].headers["x-mine"] == "1"
    assert not {PROGRAM_HEADER, CALL_HEADER} & elsewhere.calls[0].headers.keys()


async def test_what_was_injected_goes_to_the_worker_alone(
    backend: Backend, elsewhere: Backend, session: aiohttp.ClientSession
) -> None:
    """Neither to the model server nor to whom the worker redirects."""
    elsewhere.redirect_to = elsewhere.url.replace("127.0.0.1", "localhost")
    autellix.init(backend.base_url)
    async with autellix.program():
        await _ask(session, backend, headers=autellix.inject())
        with contextlib.suppress(aiohttp.TooManyRedirects):
            await _ask(session, elsewhere, headers=autellix.inject(), max_redirects=2)
    assert CONTINUE_HEADER not in backend.calls[0].headers
    assert [CONTINUE_HEADER in seen.headers for seen in elsewhere.calls] == [True, False]


async def test_dialects_are_spoken_to_the_backend_alone(
    backend: Backend, elsewhere: Backend, session: aiohttp.ClientSession
) -> None:
    """Those that live in headers; a header of the user's own goes wherever aiohttp sends it."""
    autellix.init(backend.base_url, dialects=["litellm", "x-session-id"])
    backend.redirect_to = elsewhere.base_url + "/chat/completions"
    async with autellix.program() as p:
        await _ask(session, backend, headers={"x-session-id": "mine"})
    there, away = backend.calls[0].headers, elsewhere.calls[0].headers
    assert (there["x-litellm-session-id"], there["x-session-id"]) == (p.id, "mine")
    assert "x-litellm-session-id" not in away
    assert away["x-session-id"] == "mine"


async def test_redirects_stay_one_call(backend: Backend, elsewhere: Backend, session: aiohttp.ClientSession) -> None:
    """Within the backend, away and back again, and into it from elsewhere."""
    autellix.init(backend.base_url)
    backend.redirect_to, elsewhere.redirect_to = "/v1/again", backend.base_url + "/back"
    async with autellix.program() as p:
        with pytest.raises(aiohttp.TooManyRedirects):
            await _ask(session, backend, max_redirects=2)
        backend.redirect_to = elsewhere.base_url
        with pytest.raises(aiohttp.TooManyRedirects):
            await _ask(session, backend, max_redirects=3)
        backend.redirect_to = None
        await _ask(session, elsewhere)
    assert [context.call for context in backend.contexts] == ["0.0", "0.0", "0.1", "0.1", "0.2"]
    assert not any(CALL_HEADER in seen.headers for seen in elsewhere.calls)
    assert p.bill().calls == 1


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}@localhost:{other}/v1/there",
        "//localhost:{other}/v1/there",
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/%2E%2E%2Fadmin",
        "/v1there",
    ],
)
async def test_where_a_redirect_leads_decides(
    backend: Backend, elsewhere: Backend, session: aiohttp.ClientSession, location: str
) -> None:
    """User information that looks like a host, and dot segments, encoded or not, carry nothing away."""
    ports = {"port": backend.url.rpartition(":")[2], "other": elsewhere.url.rpartition(":")[2]}
    backend.redirect_to = location.format(**ports)
    autellix.init(backend.base_url)
    async with autellix.program():
        with contextlib.suppress(aiohttp.TooManyRedirects):
            await _ask(session, backend, max_redirects=2)
    first, second = backend.calls + elsewhere.calls
    assert (CALL_HEADER in first.headers, CALL_HEADER in second.headers) == (True, False)


@pytest.mark.parametrize(
    ("base_url", "url", "covered"),
    [
        ("http://host:8700/v1", "http://HOST:8700/v1/models", True),
        ("http://host/v1", "http://host:80/v1/models", True),
        ("http://host:8700/v1", "http://host:8700@evil/v1/models", False),
        ("http://host:8700/v1", "ws://host:8700/v1/realtime", False),
        ("http://bücher.example/v1", "http://Bücher.example/v1/models", True),
        ("http://[::ABCD]:9/v1", "http://[0::abcd]:9/v1/models", True),
        ("http://[::1]:9/v1", "http://[::2]:9/v1/models", False),
        ("http://host/v1", "/v1/models", False),
    ],
)
def test_the_allow_list_reads_urls_of_aiohttp(base_url: str, url: str, covered: bool) -> None:
    """As it reads those of httpx."""
    assert Endpoint.parse(base_url).covers(_Address.of(URL(url))) is covered


@pytest.mark.parametrize("location", ["http://[", ""])
async def test_a_redirect_that_leads_nowhere_is_left_to_aiohttp(
    backend: Backend, session: aiohttp.ClientSession, location: str
) -> None:
    """It refuses a location that cannot be read, and answers where there is none."""
    autellix.init(backend.base_url)
    backend.redirect_to = location
    async with autellix.program() as p:
        with contextlib.suppress(aiohttp.InvalidUrlRedirectClientError):
            await _ask(session, backend)
    assert [context.call for context in backend.contexts] == ["0.0"]
    assert p.ledger.idle_s() > 0


def test_no_hop_goes_out_with_the_stamp_of_another() -> None:
    """Though the client was switched off in between, or the location cannot be read."""
    autellix.init("http://127.0.0.1:9/v1", dialects=["x-session-id"])
    for location in ("http://elsewhere/", "http://["):
        trip, headers = _Trip(), CIMultiDict({"x-mine": "1"})
        trip.visit(URL("http://127.0.0.1:9/v1"), headers)
        assert {CALL_HEADER, "x-session-id"} <= headers.keys()
        if location == "http://elsewhere/":
            autellix.shutdown()
        answer = SimpleNamespace(headers={"Location": location})
        _redirected(trip, SimpleNamespace(url=URL("http://127.0.0.1:9/v1"), headers=headers, response=answer))
        assert dict(headers) == {"x-mine": "1"}
        autellix.init("http://127.0.0.1:9/v1", dialects=["x-session-id"])


async def test_a_request_that_is_stamped_already_is_left_alone(
    backend: Backend, elsewhere: Backend, session: aiohttp.ClientSession
) -> None:
    """By `headers()`, or by httpx where that sends through aiohttp; to other hosts such headers do not go either."""
    autellix.init(backend.base_url)
    async with autellix.program() as p:
        await _ask(session, backend, headers=autellix.headers())
        await _ask(session, elsewhere, headers=autellix.headers())
    assert [context.call for context in backend.contexts] == ["0.0"]
    assert p.graph.calls == 2
    assert not {PROGRAM_HEADER, CALL_HEADER} & elsewhere.calls[0].headers.keys()


async def test_an_error_of_ours_sends_the_request_unstamped(
    backend: Backend, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, lenient: None
) -> None:
    """The user's request goes through, and the fault is counted."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(_aiohttp, "begin_call", broken)
    autellix.init(backend.base_url)
    async with autellix.program():
        assert (await _ask(session, backend))["id"] == "1"
    assert (backend.contexts, list(faults.counts.values())) == ([], [1])
