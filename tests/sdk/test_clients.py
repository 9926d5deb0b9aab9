"""Every way of calling that the openai package has is seen, against a real server."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import openai
import pytest

import autellix_sdk as autellix
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER
from tests.sdk.conftest import Backend, libraries

openai_http: Any = importlib.import_module("httpx" if openai.VERSION.startswith("2.") else "httpx2")
"""The HTTP library that the openai package is on: httpx2, or httpx under openai 2."""

QUESTION: Any = {"model": "m", "messages": [{"role": "user", "content": "is it?"}]}
AZURE: Any = {"api_version": "2024-10-21", "api_key": "key"}


class Hiccups(openai_http.HTTPTransport):
    """A transport of the user's own, whose first connection fails."""

    failed = False

    def handle_request(self, request: openai_http.Request) -> openai_http.Response:
        """Send, the second time."""
        if not self.failed:
            self.failed = True
            raise openai_http.ConnectError("refused", request=request)
        return super().handle_request(request)


def _chat(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(**QUESTION).choices[0].message.content == "yes"


def _raw(client: openai.OpenAI) -> None:
    response = client.chat.completions.with_raw_response.create(**QUESTION)
    assert response.parse().choices[0].message.content == "yes"


def _streaming_response(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**QUESTION) as response:
        assert response.parse().choices[0].message.content == "yes"


def _responses(client: openai.OpenAI) -> None:
    assert client.responses.create(model="m", input="is it?").id == "1"


def _any_path(client: openai.OpenAI) -> None:
    assert client.post("/rerank", body={}, cast_to=openai_http.Response).status_code == 200


def _with_options(client: openai.OpenAI) -> None:
    _chat(client.with_options(timeout=9.0))


def _copy(client: openai.OpenAI) -> None:
    _chat(client.copy(max_retries=0))


def _own_transport(client: openai.OpenAI) -> None:
    with client.copy(http_client=openai_http.Client(transport=openai_http.HTTPTransport())) as other:
        _chat(other)


CALLS = (_chat, _raw, _streaming_response, _responses, _any_path, _with_options, _copy, _own_transport)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_stamped_and_billed(backend: Backend, call: Callable[[openai.OpenAI], None], early: bool) -> None:
    """Whether its client was made, and used, before `init` or after it."""
    if not early:
        autellix.init(backend.base_url)
    with openai.OpenAI(base_url=backend.base_url, api_key="key") as client:
        if early:
            _chat(client)
            autellix.init(backend.base_url)
        with autellix.program("ask") as p:
            call(client)
    assert [(context.program, context.call, context.name) for context in backend.contexts] == [(p.id, "0.0", "ask")]
    assert (len(backend.calls), p.bill().calls, p.bill().pending) == (1 + early, 1, 0)


async def _achat(client: openai.AsyncOpenAI) -> None:
    assert (await client.chat.completions.create(**QUESTION)).choices[0].message.content == "yes"


async def _araw(client: openai.AsyncOpenAI) -> None:
    response = await client.chat.completions.with_raw_response.create(**QUESTION)
    assert response.parse().choices[0].message.content == "yes"


async def _astreaming_response(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.with_streaming_response.create(**QUESTION) as response:
        assert (await response.parse()).choices[0].message.content == "yes"


async def _aresponses(client: openai.AsyncOpenAI) -> None:
    assert (await client.responses.create(model="m", input="is it?")).id == "1"


async def _awith_options(client: openai.AsyncOpenAI) -> None:
    await _achat(client.with_options(timeout=9.0))


async def _acopy(client: openai.AsyncOpenAI) -> None:
    await _achat(client.copy(max_retries=0))


async def _aiohttp_inside(client: openai.AsyncOpenAI) -> None:
    async with client.copy(http_client=openai.DefaultAioHttpClient()) as other:
        await _achat(other)


ASYNC_CALLS = (_achat, _araw, _astreaming_response, _aresponses, _awith_options, _acopy, _aiohttp_inside)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("call", ASYNC_CALLS)
async def test_every_async_call_is_stamped_and_billed(
    backend: Backend, call: Callable[[openai.AsyncOpenAI], Awaitable[None]], early: bool
) -> None:
    """The same for the async client."""
    if not early:
        autellix.init(backend.base_url)
    async with openai.AsyncOpenAI(base_url=backend.base_url, api_key="key") as client:
        if early:
            await _achat(client)
            autellix.init(backend.base_url)
        async with autellix.program("ask") as p:
            await call(client)
    assert [(context.program, context.call, context.name) for context in backend.contexts] == [(p.id, "0.0", "ask")]
    assert (len(backend.calls), p.bill().calls, p.bill().pending) == (1 + early, 1, 0)


@pytest.fixture
def module_client(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The client that the openai module makes for itself at the first call."""
    monkeypatch.setattr(openai, "base_url", backend.base_url + "/")
    monkeypatch.setattr(openai, "api_key", "key")
    with openai_http.Client() as http_client:
        monkeypatch.setattr(openai, "http_client", http_client)
        yield
    monkeypatch.undo()
    openai._reset_client()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("module_client")
def test_the_module_level_client_is_caught(backend: Backend) -> None:
    """`openai.chat.completions.create`, before `init` and after it."""
    openai.chat.completions.create(**QUESTION)
    autellix.init(backend.base_url)
    with autellix.program():
        openai.chat.completions.create(**QUESTION)
        openai.responses.create(model="m", input="is it?")
    assert [context.call for context in backend.contexts] == ["0.0", "0.1"]
    assert len(backend.calls) == 3


@pytest.mark.parametrize("deployment", [None, "m"])
async def test_azure_clients_are_caught(backend: Backend, deployment: str | None) -> None:
    """Plain, streamed and raw; their base URL is below the backend's, and `wrap` finds nothing to say."""
    autellix.init(backend.url + "/openai")
    azure: Any = AZURE | {"azure_endpoint": backend.url, "azure_deployment": deployment}
    with openai.AzureOpenAI(**azure) as client, autellix.program() as p:
        autellix.wrap(client)
        _chat(client)
        _raw(client.with_options(timeout=9.0))
        with client.chat.completions.create(**QUESTION, stream=True) as stream:
            assert len(list(stream)) == 3
        async with openai.AsyncAzureOpenAI(**azure) as aclient:
            await _achat(aclient)
    assert [(context.program, context.call) for context in backend.contexts] == [
        (p.id, f"0.{place}") for place in range(4)
    ]
    assert {seen.path for seen in backend.calls} == {"/openai/deployments/m/chat/completions?api-version=2024-10-21"}


@pytest.mark.parametrize("statuses", [[429], [500, 503], [408]])
async def test_async_retries_repeat_the_call_id(backend: Backend, statuses: list[int]) -> None:
    """Of plain, streamed and raw calls; the next call is a new one."""
    autellix.init(backend.base_url)
    retries = list(range(len(statuses) + 1))
    async with openai.AsyncOpenAI(base_url=backend.base_url, api_key="key") as client, autellix.program() as p:
        backend.statuses = list(statuses)
        await _achat(client)
        backend.statuses = list(statuses)
        async with await client.chat.completions.create(**QUESTION, stream=True) as stream:
            assert len([chunk async for chunk in stream]) == 3
        backend.statuses = list(statuses)
        await _araw(client)
    assert [(context.call, context.retry) for context in backend.contexts] == [
        (f"0.{place}", retry) for place in range(3) for retry in retries
    ]
    assert (p.bill().calls, p.bill().pending) == (2, 1)


def test_a_retry_after_a_failed_connection_repeats_the_call_id(backend: Backend) -> None:
    """The attempt that never arrived is the first one."""
    autellix.init(backend.base_url)
    http_client = openai_http.Client(transport=Hiccups())
    client = openai.OpenAI(base_url=backend.base_url, api_key="key", http_client=http_client)
    with client, autellix.program() as p:
        _chat(client)
        _chat(client)
    assert [(context.call, context.retry) for context in backend.contexts] == [("0.0", 1), ("0.1", 0)]
    assert (p.bill().calls, p.bill().pending) == (2, 0)


@pytest.fixture
async def clients(backend: Backend) -> AsyncIterator[tuple[openai.OpenAI, openai.AsyncOpenAI]]:
    """A sync and an async client."""
    options: Any = {"base_url": backend.base_url, "api_key": "key", "max_retries": 0}
    with openai.OpenAI(**options) as client:
        async with openai.AsyncOpenAI(**options) as aclient:
            yield client, aclient


async def test_redirects_of_the_client_to_another_host_lose_our_headers(
    backend: Backend, elsewhere: Backend, clients: tuple[openai.OpenAI, openai.AsyncOpenAI]
) -> None:
    """It follows them by itself. What it retries because of the other host's answer is the same call."""
    backend.redirect_to = elsewhere.base_url + "/chat/completions"
    elsewhere.statuses = [503, 200]
    autellix.init(backend.base_url)
    with autellix.program() as p:
        _chat(clients[0].with_options(max_retries=1))
        await _achat(clients[1])
        backend.redirect_to = None
        _chat(clients[0])
    assert [(context.call, context.retry) for context in backend.contexts] == [
        ("0.0", 0),
        ("0.0", 1),
        ("0.1", 0),
        ("0.2", 0),
    ]
    assert len(elsewhere.calls) == 3
    assert not any({PROGRAM_HEADER, CALL_HEADER} & seen.headers.keys() for seen in elsewhere.calls)
    assert p.bill().calls == 1


@pytest.mark.parametrize(
    ("location", "stamped"),
    [
        ("/v1/there", True),
        ("there", True),
        ("/v1/%74here", True),
        ("http://user:secret@127.0.0.1:9/v1/there", True),
        ("http://127.0.0.1:9@elsewhere/v1/there", False),
        ("http://elsewhere/v1/there?http://127.0.0.1:9/v1", False),
        ("http://127.0.0.1:90/v1/there", False),
        ("https://127.0.0.1:9/v1/there", False),
        ("//elsewhere/v1/there", False),
        ("/v1/../admin", False),
        ("/v1/%2e%2e/admin", False),
        ("/v1/.%2E/admin", False),
        ("/v1/%2E%2E%2Fadmin", False),
        ("/v1%2F..%2Fadmin", False),
        ("/v1admin", False),
    ],
)
@libraries
def test_where_a_redirect_leads_decides(library: Any, location: str, stamped: bool) -> None:
    """Tricks with user information, ports, schemes and dot segments, encoded or not, do not carry our headers away."""
    sent: list[Any] = []

    def answer(request: Any) -> Any:
        sent.append(request)
        return library.Response(
            307 if len(sent) == 1 else 200, headers={"location": location} if len(sent) == 1 else {}
        )

    autellix.init("http://127.0.0.1:9/v1")
    client = library.Client(transport=library.MockTransport(answer), follow_redirects=True)
    with client, autellix.program():
        client.get("http://127.0.0.1:9/v1/here")
    assert (CALL_HEADER in sent[0].headers, CALL_HEADER in sent[1].headers) == (True, stamped)
    assert (PROGRAM_HEADER in sent[1].headers) == stamped


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:9@elsewhere/v1",
        "http://127.0.0.1:9%2F@elsewhere/v1",
        "http://127.0.0.1:9/v1/../v2",
        "http://127.0.0.1:9/v1/%2e%2e/v2",
        "http://127.0.0.1:9/v1/..%2fv2",
        "http://127.0.0.1:9/v1x",
        "http://127.0.0.1.elsewhere:9/v1",
    ],
)
def test_look_alike_base_urls_see_no_headers(base_url: str) -> None:
    """Whatever a client is pointed at by mistake or on purpose; its calls go out as they are."""
    sent: list[openai_http.Request] = []

    def answer(request: openai_http.Request) -> openai_http.Response:
        sent.append(request)
        return openai_http.Response(200, json={"id": "1", "choices": []})

    autellix.init("http://127.0.0.1:9/v1")
    http_client = openai_http.Client(transport=openai_http.MockTransport(answer))
    with openai.OpenAI(base_url=base_url, api_key="key", http_client=http_client) as client, autellix.program() as p:
        assert client.chat.completions.create(**QUESTION).id == "1"
    assert not {PROGRAM_HEADER, CALL_HEADER} & sent[0].headers.keys()
    assert p.graph.calls == 0
