"""Which requests are stamped, and what happens to them: with the real clients, against a real server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import openai
import pytest

import autellix_sdk as autellix
from autellix_sdk import _programs
from autellix_sdk._faults import faults
from autellix_sdk.wire import BILL_HEADER, CALL_HEADER, CONTINUE_HEADER, PROGRAM_HEADER, decode_call
from tests.sdk.conftest import BASE_URL, Backend, call_bill, libraries

QUESTION: Any = {"model": "m", "messages": [{"role": "user", "content": "is it?"}]}


def _client(backend: Backend, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=backend.base_url, api_key="key", **options)


def test_openai_calls_are_stamped_in_order(backend: Backend) -> None:
    """Two calls in a scope are two calls of one thread of that program."""
    autellix.init(backend.base_url)
    with _client(backend) as client, autellix.program("ask") as p:
        for _ in range(2):
            assert client.chat.completions.create(**QUESTION).choices[0].message.content == "yes"
    first, second = backend.contexts
    assert (first.program, first.name, first.thread, first.call, first.parents) == (p.id, "ask", 0, "0.0", ())
    assert (second.program, second.call, second.parents, second.retry) == (p.id, "0.1", ("0.0",), 0)
    assert first.salt == second.salt


async def test_async_openai_calls_are_stamped(backend: Backend) -> None:
    """The async client is caught the same way."""
    autellix.init(backend.base_url)
    async with openai.AsyncOpenAI(base_url=backend.base_url, api_key="key") as client, autellix.program() as p:
        await client.chat.completions.create(**QUESTION)
    assert [(context.program, context.call) for context in backend.contexts] == [(p.id, "0.0")]


def test_streams_are_stamped_and_arrive_untouched(backend: Backend) -> None:
    """A streamed call is stamped, and its chunks come through."""
    autellix.init(backend.base_url)
    with _client(backend) as client, autellix.program():
        with client.chat.completions.create(**QUESTION, stream=True) as stream:
            assert len(list(stream)) == 3
        client.chat.completions.with_raw_response.create(**QUESTION)
    assert [context.call for context in backend.contexts] == ["0.0", "0.1"]


async def test_async_streams_are_stamped(backend: Backend) -> None:
    """The same for the async client."""
    autellix.init(backend.base_url)
    async with openai.AsyncOpenAI(base_url=backend.base_url, api_key="key") as client, autellix.program():
        stream = await client.chat.completions.create(**QUESTION, stream=True)
        assert len([chunk async for chunk in stream]) == 3
    assert [context.call for context in backend.contexts] == ["0.0"]


@pytest.mark.parametrize("stream", [False, True])
def test_retries_repeat_the_call_id(backend: Backend, stream: bool) -> None:
    """The OpenAI client's own retries are attempts of one call; the next call is a new one."""
    backend.statuses = [500, 503]
    autellix.init(backend.base_url)
    with _client(backend) as client, autellix.program() as p:
        client.chat.completions.create(**QUESTION, stream=stream)
        client.chat.completions.create(**QUESTION)
    assert [(context.call, context.retry) for context in backend.contexts] == [
        ("0.0", 0),
        ("0.0", 1),
        ("0.0", 2),
        ("0.1", 0),
    ]
    assert p.bill().calls == (1 if stream else 2)


def test_a_refused_call_is_not_repeated_by_the_next(backend: Backend) -> None:
    """After an error that is not retried, the next call has an ID of its own."""
    backend.statuses = [400]
    autellix.init(backend.base_url)
    with _client(backend) as client, autellix.program():
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**QUESTION)
        client.chat.completions.create(**QUESTION)
    assert [(context.call, context.retry) for context in backend.contexts] == [("0.0", 0), ("0.1", 0)]


def test_clients_made_earlier_and_derived_ones_are_caught(backend: Backend) -> None:
    """A client built before `init`, and what `with_options` makes of it."""
    with _client(backend) as client:
        autellix.init(backend.base_url)
        with autellix.program():
            client.chat.completions.create(**QUESTION)
            client.with_options(max_retries=0, timeout=9.0).chat.completions.create(**QUESTION)
    assert [context.call for context in backend.contexts] == ["0.0", "0.1"]


def test_a_copy_for_another_host_is_not_stamped(backend: Backend, elsewhere: Backend) -> None:
    """`copy(base_url=...)` leaves the backend, and our headers stay behind."""
    autellix.init(backend.base_url)
    with _client(backend) as client, autellix.program():
        client.chat.completions.create(**QUESTION)
        client.copy(base_url=elsewhere.base_url).chat.completions.create(**QUESTION)
    assert len(backend.contexts) == 1
    assert PROGRAM_HEADER not in elsewhere.calls[0].headers
    assert CALL_HEADER not in elsewhere.calls[0].headers


@libraries
def test_redirects_to_another_host_lose_our_headers(library: Any, backend: Backend, elsewhere: Backend) -> None:
    """The backend sees the stamp; whom it redirects to does not."""
    backend.redirect_to = elsewhere.base_url + "/chat/completions"
    autellix.init(backend.base_url)
    with library.Client(follow_redirects=True) as client, autellix.program():
        client.post(backend.base_url + "/chat/completions", json=QUESTION)
    assert len(backend.contexts) == 1
    assert not {PROGRAM_HEADER, CALL_HEADER} & elsewhere.calls[0].headers.keys()


@libraries
def test_what_was_injected_goes_to_the_worker_alone(library: Any) -> None:
    """Along redirects of the worker's own; not to the model server, nor to whom the worker redirects."""
    seen = []

    def answer(request: Any) -> Any:
        seen.append((request.url.host, CONTINUE_HEADER in request.headers))
        location = {"/1": "/2", "/2": "http://other/"}.get(request.url.path)
        return library.Response(307 if location else 200, headers={"location": location} if location else {})

    autellix.init("http://127.0.0.1:9/v1")
    with library.Client(transport=library.MockTransport(answer), follow_redirects=True) as client, autellix.program():
        client.post("http://worker/1", headers=autellix.inject())
        client.post("http://127.0.0.1:9/v1/completions", headers=autellix.inject())
    assert seen == [("worker", True), ("worker", True), ("other", False), ("127.0.0.1", False)]


@libraries
@pytest.mark.parametrize("value", ["v1;i=theirs;p=", "v2;not=readable"])
def test_what_another_process_injected_goes_no_further(library: Any, value: str) -> None:
    """Once it was read here, readable or not. A process that has seen none of it looks for none."""
    seen = []
    transport = library.MockTransport(lambda request: library.Response(200, json=seen.append(request)))
    autellix.init(BASE_URL)
    with library.Client(transport=transport) as client, autellix.program():
        for headers in ({CONTINUE_HEADER: value}, {CONTINUE_HEADER.title(): value}):
            client.post(BASE_URL + "/completions", headers=headers)
            autellix.extract(headers)
    assert [CONTINUE_HEADER in request.headers for request in seen] == [True, False]


@libraries
def test_redirects_within_the_backend_stay_one_call(library: Any) -> None:
    """Both hops carry the same call."""
    seen = []

    def answer(request: Any) -> Any:
        seen.append(request.headers[CALL_HEADER])
        moved = len(seen) == 1
        return library.Response(307 if moved else 200, headers={"location": "/v1/there"} if moved else {})

    autellix.init("http://127.0.0.1:9/v1")
    transport = library.MockTransport(answer)
    with library.Client(transport=transport, follow_redirects=True) as client, autellix.program() as p:
        client.get("http://127.0.0.1:9/v1/here")
    assert seen[0] == seen[1]
    assert p.graph.calls == 1


@libraries
def test_a_redirect_into_the_backend_is_a_call_that_lands(library: Any) -> None:
    """What began at a hop is over when `send` returns, or raises."""

    def answer(request: Any) -> Any:
        if request.url.host == "front":
            return library.Response(307, headers={"location": "http://127.0.0.1:9/v1/there"})
        if request.url.path == "/v1/there":
            return library.Response(307, headers={"location": "http://elsewhere/"})
        raise library.ConnectError("refused", request=request)

    autellix.init("http://127.0.0.1:9/v1")
    with library.Client(transport=library.MockTransport(answer), follow_redirects=True) as client:
        with autellix.program() as p, pytest.raises(library.ConnectError):
            client.get("http://front/")
        client.max_redirects = 1
        with autellix.program() as q, pytest.raises(library.TooManyRedirects):
            client.get("http://front/")
        client.follow_redirects = False
        with autellix.program() as r:
            client.send(client.get("http://front/").next_request)
    for program in (p, q, r):
        assert program.graph.calls == 1
        assert program.ledger.idle_s() > 0
    assert [program.bill().pending for program in (p, q, r)] == [0, 0, 1]


@libraries
async def test_calls_made_for_authentication_are_calls_that_land(library: Any) -> None:
    """A token fetched from the backend, then the request: two calls. The same request once more: the same call."""

    class Token(library.Auth):  # type: ignore[misc]
        token: Any = None

        def auth_flow(self, request: Any) -> Any:
            self.token = self.token or library.Request("GET", "http://127.0.0.1:9/v1/token")
            yield self.token
            response = yield request
            if response.status_code == 401:
                yield request

    def answer(request: Any) -> Any:
        refused = request.url.path == "/v1/models" and len(asked) == 1
        asked.append(request.headers[CALL_HEADER])
        bill = call_bill(request.headers[PROGRAM_HEADER], request.headers[CALL_HEADER]).encode()
        return library.Response(401 if refused else 200, headers={BILL_HEADER: bill})

    asked: list[str] = []
    autellix.init("http://127.0.0.1:9/v1")
    transport, auth = library.MockTransport(answer), Token()
    with autellix.program() as p:
        with library.Client(transport=transport, auth=auth) as client:
            client.get("http://127.0.0.1:9/v1/models")
        async with library.AsyncClient(transport=transport, auth=auth) as aclient:
            await aclient.get("http://127.0.0.1:9/v1/models")
    assert [decode_call(p.id, call).call for call in asked] == ["0.0", "0.1", "0.1", "0.2", "0.3"]
    assert p.ledger.idle_s() > 0
    assert (p.bill().calls, p.bill().pending) == (4, 0)


@libraries
def test_a_request_sent_again_is_a_new_call(library: Any) -> None:
    """Whatever it carried belongs to its first trip, also where the second one is not stamped."""
    seen = []
    transport = library.MockTransport(lambda request: library.Response(200, json=dict(request.headers)))
    autellix.init("http://127.0.0.1:9/v1", implicit="off")
    with library.Client(transport=transport) as client:
        request = client.build_request("GET", "http://127.0.0.1:9/v1/models")
        with autellix.program() as first:
            seen += [client.send(request).json(), client.send(request).json()]
        with autellix.program() as second:
            seen.append(client.send(request).json())
        seen.append(client.send(request).json())
    assert [headers.get(PROGRAM_HEADER) for headers in seen] == [first.id, first.id, second.id, None]
    assert [program.graph.calls for program in (first, second)] == [2, 1]
    assert CALL_HEADER not in seen[3]


@libraries
def test_our_hook_stays_the_last(library: Any) -> None:
    """A hook that the user adds later may change the URL; one that is running when ours moves is not skipped."""
    sent = []

    def leave(request: Any) -> None:
        request.url = library.URL("http://elsewhere/")

    def add_leave(request: Any) -> None:
        if request.url.path == "/v1/first":
            client.event_hooks["request"].append(leave)
            client.get("http://127.0.0.1:9/v1/second")

    autellix.init("http://127.0.0.1:9/v1")
    transport = library.MockTransport(lambda request: sent.append(request) or library.Response(200))
    with library.Client(transport=transport) as client, autellix.program() as p:
        client.event_hooks["request"].append(add_leave)
        client.get("http://127.0.0.1:9/v1/first")
        assert len(client.event_hooks["request"]) == 3
        autellix.shutdown()
        assert client.event_hooks["request"] == [add_leave, leave]
    assert [request.url.host for request in sent] == ["elsewhere", "elsewhere"]
    assert not {PROGRAM_HEADER, CALL_HEADER} & sent[0].headers.keys()
    assert p.ledger.idle_s() > 0


@libraries
def test_a_plain_body_read_as_a_stream_is_billed(library: Any, backend: Backend) -> None:
    """The bill is in the headers, whoever reads the body and when."""
    autellix.init(backend.base_url)
    url = backend.base_url + "/chat/completions"
    with (
        library.Client() as client,
        autellix.program() as p,
        client.stream("POST", url, json=QUESTION) as response,
    ):
        assert p.bill().calls == 1
        response.read()
    assert (p.bill().calls, p.bill().pending) == (1, 0)


@libraries
def test_manual_headers_never_reach_another_host(library: Any) -> None:
    """Even headers that the user copied are stripped where they do not belong."""
    sent = []
    autellix.init("http://127.0.0.1:9/v1")
    transport = library.MockTransport(lambda request: sent.append(request) or library.Response(200))
    with library.Client(transport=transport) as client, autellix.program():
        client.get("http://127.0.0.1:10/v1/models", headers=autellix.headers())
    assert CALL_HEADER not in sent[0].headers
    assert PROGRAM_HEADER not in sent[0].headers


@libraries
async def test_user_hooks_are_kept_and_ours_is_added_once(library: Any) -> None:
    """The user's event hooks run as before; `shutdown` takes only ours away."""
    calls = []

    async def mine(request: Any) -> None:
        calls.append(request)

    transport = library.MockTransport(lambda _: library.Response(200))
    async with library.AsyncClient(transport=transport, event_hooks={"request": [mine]}) as client:
        autellix.init("http://127.0.0.1:9/v1")
        for _ in range(2):
            await client.get("http://127.0.0.1:9/v1/models")
        assert len(client.event_hooks["request"]) == 2
        assert CALL_HEADER in calls[1].headers
        autellix.shutdown()
        assert client.event_hooks["request"] == [mine]
        await client.get("http://127.0.0.1:9/v1/models")
    assert CALL_HEADER not in calls[2].headers


@libraries
def test_shutdown_restores_the_classes(library: Any) -> None:
    """After `shutdown` the methods are the very functions they were."""
    before = (library.Client.send, library.AsyncClient.send)
    autellix.init("http://127.0.0.1:9/v1")
    assert library.Client.send is not before[0]
    autellix.shutdown()
    assert (library.Client.send, library.AsyncClient.send) == before


@libraries
def test_shutdown_leaves_wraps_on_top_of_ours_working(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who wrapped our wrapper keeps theirs; ours goes silent inside it."""
    before = library.Client.send
    autellix.init("http://127.0.0.1:9/v1")
    ours = library.Client.send
    monkeypatch.setattr(library.Client, "send", lambda *args, **kwargs: ours(*args, **kwargs))
    autellix.shutdown()
    transport = library.MockTransport(lambda request: library.Response(200, text=str(CALL_HEADER in request.headers)))
    with library.Client(transport=transport) as client, autellix.program():
        assert client.get("http://127.0.0.1:9/v1/models").text == "False"
        assert client.event_hooks["request"] == []
    monkeypatch.undo()
    library.Client.send = before


@libraries
def test_an_error_of_ours_sends_the_request_unstamped(
    library: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch, lenient: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The user's call goes through; the fault is counted each time and logged once."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(_programs, "format_call", broken)
    autellix.init(backend.base_url)
    with library.Client() as client, autellix.program():
        for _ in range(2):
            assert client.post(backend.base_url + "/chat/completions", json=QUESTION).status_code == 200
    assert backend.contexts == []
    assert list(faults.counts.values()) == [2]
    assert [record.getMessage().count("ZeroDivisionError: ours") for record in caplog.records] == [1]


@libraries
async def test_failed_calls_raise_what_they_always_raised(library: Any, backend: Backend) -> None:
    """Errors and cancellation pass through; the call counts as over, and as one that brings no bill."""

    def refuse(request: Any) -> Any:
        raise library.ConnectError("refused", request=request)

    started = asyncio.Event()

    async def hang(_: Any) -> Any:
        started.set()
        await asyncio.Event().wait()

    autellix.init("http://127.0.0.1:9/v1")
    with autellix.program() as p:
        refusing = library.Client(transport=library.MockTransport(refuse))
        with refusing as client, pytest.raises(library.ConnectError):
            client.get("http://127.0.0.1:9/v1/models")
        async with library.AsyncClient(transport=library.MockTransport(hang)) as client:
            task = asyncio.ensure_future(client.get("http://127.0.0.1:9/v1/models"))
            await started.wait()
            assert p.ledger.idle_s() == 0
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert p.ledger.idle_s() > 0
    assert (p.bill().calls, p.bill().pending) == (0, 0)


@libraries
def test_a_library_imported_after_init_is_caught(library: Any) -> None:
    """Neither import order nor a second library in the same process matters."""
    code = f"""
import sys
import autellix_sdk
autellix_sdk.init("http://127.0.0.1:9/v1")
assert not {{"httpx", "httpx2", "openai"}} & sys.modules.keys()
import {library.__name__} as library
assert library.__spec__.loader.get_source(library.__name__)
transport = library.MockTransport(lambda request: library.Response(200, text=request.headers["{CALL_HEADER}"]))
with library.Client(transport=transport) as client:
    assert client.get("http://127.0.0.1:9/v1/models").text.startswith("v1;")
autellix_sdk.shutdown()
assert not hasattr(library.Client.send, "__wrapped__")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
