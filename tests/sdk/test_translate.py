"""Dialects on the wire: who hears them, who does not, and what they leave as it was. With every dialect there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

import autellix_sdk as autellix
from autellix_sdk import _intercept
from autellix_sdk._dialects import DIALECTS
from autellix_sdk._faults import faults
from autellix_sdk._programs import ProgramRecord
from autellix_sdk._runtime import runtime
from autellix_sdk.errors import ConfigurationError, UsageError
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER
from tests.sdk.conftest import Backend, libraries

QUESTION: Any = {"model": "m", "messages": [{"role": "user", "content": "is it?"}]}
HERE = "http://127.0.0.1:9/v1/chat/completions"
DEEP = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
"""Nested too deeply for a JSON parser."""

dialects = pytest.mark.parametrize("dialect", DIALECTS)


def _spoken(seen: Any) -> dict[str, str]:
    """What is said in dialects by a request, whichever they are."""
    names = {name for dialect in DIALECTS.values() for name in dialect.names}
    said = {name: seen.headers[name] for name in names if name in seen.headers}
    if b"agentic_context" in seen.body:
        said["body"] = json.loads(seen.body)["vllm_xargs"]["agentic_context"]
    return said


def _expected(dialect: str, context: Any) -> dict[str, str]:
    body = DIALECTS[dialect].body
    written = {} if body is None else {"body": json.loads(body(context, b"{}"))["vllm_xargs"]["agentic_context"]}
    return DIALECTS[dialect].headers(context) | written


@dialects
def test_a_dialect_is_spoken_to_the_backend_beside_our_headers(dialect: str, backend: Backend) -> None:
    """And no other dialect is; the call goes through."""
    autellix.init(backend.base_url, dialects=[dialect])
    with openai.OpenAI(base_url=backend.base_url, api_key="key") as client, autellix.program("ask"):
        assert client.chat.completions.create(**QUESTION).choices[0].message.content == "yes"
    (seen,), (context,) = backend.calls, backend.contexts
    assert _spoken(seen) == _expected(dialect, context)
    assert json.loads(seen.body).items() >= QUESTION.items()


async def test_async_calls_and_streams_speak_too(backend: Backend) -> None:
    """All dialects at once, each word of them."""
    autellix.init(backend.base_url, dialects=DIALECTS)
    async with openai.AsyncOpenAI(base_url=backend.base_url, api_key="key") as client, autellix.program():
        stream = await client.chat.completions.create(**QUESTION, stream=True)
        assert len([chunk async for chunk in stream]) == 3
    (seen,), (context,) = backend.calls, backend.contexts
    assert _spoken(seen) == {name: said for each in DIALECTS for name, said in _expected(each, context).items()}


@dialects
@libraries
def test_a_redirect_to_another_host_takes_back_every_word(
    library: Any, dialect: str, backend: Backend, elsewhere: Backend
) -> None:
    """Whom the backend redirects to gets the request that the user made, and the user's own headers."""
    backend.redirect_to = elsewhere.base_url + "/chat/completions"
    autellix.init(backend.base_url, dialects=[dialect])
    with library.Client(follow_redirects=True) as client, autellix.program():
        client.post(backend.base_url + "/chat/completions", json=QUESTION, headers={"x-mine": "1"})
    (context,) = backend.contexts
    assert _spoken(backend.calls[0]) == _expected(dialect, context)
    assert _spoken(elsewhere.calls[0]) == {}
    assert elsewhere.calls[0].body == library.Request("POST", "http://host", json=QUESTION).content
    assert elsewhere.calls[0].headers["x-mine"] == "1"


@dialects
def test_other_hosts_hear_nothing(dialect: str, backend: Backend, elsewhere: Backend) -> None:
    """Only the backend of `init` is spoken to."""
    autellix.init(backend.base_url, dialects=[dialect])
    with openai.OpenAI(base_url=elsewhere.base_url, api_key="key") as client, autellix.program():
        client.chat.completions.create(**QUESTION)
    assert _spoken(elsewhere.calls[0]) == {}


@pytest.mark.parametrize(
    ("dialect", "theirs"), [(each.name, name) for each in DIALECTS.values() for name in each.names]
)
def test_one_header_of_the_users_makes_the_dialect_theirs(
    dialect: str, theirs: str, backend: Backend, elsewhere: Backend
) -> None:
    """Theirs is what goes out, alone, and it stays on where a redirect leads."""
    backend.redirect_to = elsewhere.base_url + "/chat/completions"
    autellix.init(backend.base_url, dialects=DIALECTS)
    with openai.OpenAI(base_url=backend.base_url, api_key="key") as client, autellix.program() as p:
        client.chat.completions.create(**QUESTION, extra_headers={theirs.title(): "mine"})
    assert _spoken(elsewhere.calls[0]) == {theirs: "mine"}
    others = {name for each in DIALECTS if each != dialect for name in _expected(each, backend.contexts[0])}
    assert _spoken(backend.calls[0]).keys() == others | {theirs}
    assert backend.contexts[0].program == p.id


def test_a_context_in_the_body_of_the_users_stays(backend: Backend) -> None:
    """The same for the dialect that is spoken in the body."""
    autellix.init(backend.base_url, dialects=["vllm"])
    with openai.OpenAI(base_url=backend.base_url, api_key="key") as client, autellix.program():
        client.chat.completions.create(**QUESTION, extra_body={"vllm_xargs": {"agentic_context": "mine", "k": 1}})
        client.chat.completions.create(**QUESTION, extra_body={"vllm_xargs": {"k": 1}})
    first, second = (json.loads(seen.body)["vllm_xargs"] for seen in backend.calls)
    assert first == {"agentic_context": "mine", "k": 1}
    assert second == {"agentic_context": _expected("vllm", backend.contexts[1])["body"], "k": 1}


@dialects
@libraries
def test_a_request_sent_again_speaks_for_its_new_call(library: Any, dialect: str) -> None:
    """What it said on its first trip is taken back, also where the second one says nothing."""
    autellix.init("http://127.0.0.1:9/v1", implicit="off", dialects=[dialect])
    seen: list[tuple[dict[str, str], bytes]] = []

    def answer(request: Any) -> Any:
        assert request.headers["content-length"] == str(len(request.content)) == str(len(b"".join(request.stream)))
        seen.append((dict(request.headers), request.content))
        return library.Response(200)

    with library.Client(transport=library.MockTransport(answer)) as client:
        request = client.build_request("POST", HERE, json=QUESTION)
        unspoken = dict(request.headers), request.content
        for _ in range(2):
            with autellix.program() as p:
                client.send(request)
        client.send(request)
    first, second, third = ("".join(headers.values()) + body.decode() for headers, body in seen)
    assert p.id not in first
    assert second.count(p.id) > first.count(p.id) == third.count(p.id) == 0
    assert seen[2] == unspoken


@libraries
def test_a_header_set_between_two_trips_is_the_users(library: Any) -> None:
    """What they put where we had written is not taken back with the rest."""
    seen = []
    transport = library.MockTransport(lambda request: seen.append(dict(request.headers)) or library.Response(200))
    autellix.init("http://127.0.0.1:9/v1", dialects=["x-session-id"])
    with library.Client(transport=transport) as client, autellix.program(id="run-7"):
        request = client.build_request("GET", HERE)
        client.send(request)
        request.headers["x-session-id"] = "mine"
        client.send(request)
    assert [headers["x-session-id"] for headers in seen] == ["run-7", "mine"]


@libraries
def test_a_redirect_that_drops_the_body_leaves_none(library: Any) -> None:
    """There is nothing to put back where a 303 turned the call into a GET."""
    seen = []

    def answer(request: Any) -> Any:
        seen.append(request)
        return library.Response(303 if len(seen) == 1 else 200, headers={"location": "http://elsewhere/"})

    autellix.init("http://127.0.0.1:9/v1", dialects=["vllm"])
    with library.Client(transport=library.MockTransport(answer), follow_redirects=True) as client:
        client.post(HERE, json=QUESTION)
    assert (seen[1].method, seen[1].read(), seen[1].headers.get("content-length")) == ("GET", b"", None)


@libraries
def test_hops_within_the_backend_say_the_same(library: Any) -> None:
    """One call, one identity, and one context in the body."""
    seen: list[tuple[dict[str, str], bytes]] = []

    def answer(request: Any) -> Any:
        seen.append((dict(request.headers), request.read()))
        return library.Response(307 if len(seen) == 1 else 200, headers={"location": "/v1/there"})

    autellix.init("http://127.0.0.1:9/v1", dialects=DIALECTS)
    with library.Client(transport=library.MockTransport(answer), follow_redirects=True) as client, autellix.program():
        client.post(HERE, json=QUESTION)
    assert seen[0] == seen[1]


def _pieces() -> Iterator[bytes]:
    yield b'{"model":'
    yield b'"m"}'


@libraries
@pytest.mark.parametrize(
    ("body", "counted"),
    [
        ({"content": _pieces}, 1),
        ({"files": {"file": b"{}"}, "headers": {"content-type": "multipart/form-data; boundary=b"}}, 1),
        ({"data": {"model": "m"}}, 1),
        ({"content": b"[1]", "headers": {"content-type": "application/json"}}, 1),
        ({"content": b"\x1f\x8b{}", "headers": {"content-type": "application/json", "content-encoding": "gzip"}}, 1),
        ({"content": b"{}", "headers": {"content-type": "application/octet-stream"}}, 1),
        ({"content": DEEP, "headers": {"content-type": "application/json"}}, 1),
        ({"json": {"prompt": "x" * (1 << 20)}}, 1),
        ({"content": b'{"n":1E400}', "headers": {"content-type": "application/json"}}, 1),
        ({}, 0),
    ],
)
def test_other_bodies_go_out_untouched_and_counted(library: Any, body: dict[str, Any], counted: int) -> None:
    """Streams, forms, files, what is no JSON object: byte for byte; the call is stamped all the same."""
    seen = []

    def answer(request: Any) -> Any:
        seen.append(request)
        return library.Response(200, content=request.read())

    def ask(client: Any) -> tuple[bytes, str | None]:
        options = body | {"content": _pieces()} if body.get("content") is _pieces else body
        response = client.post(HERE, **options)
        return response.content, seen[-1].headers.get("content-length")

    with library.Client(transport=library.MockTransport(answer)) as client:
        plain = ask(client)
        autellix.init("http://127.0.0.1:9/v1", dialects=["vllm"])
        assert ask(client) == plain
    assert CALL_HEADER in seen[1].headers
    assert faults.counts.total() == counted


@libraries
def test_a_body_without_a_length_stays_without(library: Any) -> None:
    """A user who sends in chunks what is in memory goes on doing so."""
    seen = []
    transport = library.MockTransport(lambda request: seen.append(request) or library.Response(200))
    autellix.init("http://127.0.0.1:9/v1", dialects=["vllm"])
    with library.Client(transport=transport) as client:
        request = client.build_request("POST", HERE, json=QUESTION)
        del request.headers["content-length"]
        request.headers["transfer-encoding"] = "chunked"
        client.send(request)
    assert "content-length" not in seen[0].headers
    assert b"agentic_context" in seen[0].content


def test_shutdown_and_another_init_end_it(backend: Backend) -> None:
    """Dialects are as much a setting as the rest."""
    with openai.OpenAI(base_url=backend.base_url, api_key="key") as client:
        for dialect in ("x-session-id", "litellm"):
            autellix.init(backend.base_url, dialects=[dialect])
            client.chat.completions.create(**QUESTION)
        autellix.init(backend.base_url)
        client.chat.completions.create(**QUESTION)
        autellix.shutdown()
        client.chat.completions.create(**QUESTION)
    said = [sorted(_spoken(seen)) for seen in backend.calls]
    assert said == [["x-session-id"], ["x-litellm-session-id"], [], []]
    assert PROGRAM_HEADER not in backend.calls[3].headers


def test_without_a_dialect_no_code_of_theirs_runs(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    """Not naming one costs a look at an empty tuple."""

    def never(*_: Any) -> None:
        raise AssertionError("translated")

    monkeypatch.setattr(_intercept, "translate", never)
    monkeypatch.setattr(ProgramRecord, "context", never)
    autellix.init(backend.base_url)
    with openai.OpenAI(base_url=backend.base_url, api_key="key") as client:
        client.chat.completions.create(**QUESTION)
    assert len(backend.contexts) == 1


def test_manual_headers_speak_every_dialect() -> None:
    """Websockets and the like are told the same; a body is theirs to write."""
    autellix.init("http://127.0.0.1:9/v1", dialects=["vllm", "dynamo"])
    with autellix.program(id="run-7"):
        made = autellix.headers()
    assert made.keys() == {PROGRAM_HEADER, CALL_HEADER, "x-dynamo-session-id"}
    assert made["x-dynamo-session-id"] == "run-7"


def test_the_environment_names_dialects_where_init_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty list is a choice: none."""
    monkeypatch.setenv("AUTELLIX_DIALECTS", "dynamo, llm-d")
    for given, expected in ((None, ("dynamo", "llm-d")), (["sglang"], ("sglang",)), ([], ())):
        autellix.init("http://127.0.0.1:9/v1", dialects=given)
        assert runtime.settings is not None
        assert tuple(dialect.name for dialect in runtime.settings.dialects) == expected


def test_an_unknown_dialect_is_refused_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether `init` or the environment names it, the message says so."""
    autellix.init("http://127.0.0.1:9/v1")
    before = runtime.settings
    for wrong in (["dymano"], "dymano", [1], 1):
        with pytest.raises(UsageError, match=r"^dialects=.*(there is no '(dymano|1)'; the dialects are|not iterable)"):
            autellix.init("http://127.0.0.1:10/v1", dialects=wrong)  # type: ignore[arg-type]
    monkeypatch.setenv("AUTELLIX_DIALECTS", "dymano")
    with pytest.raises(ConfigurationError, match=r"^AUTELLIX_DIALECTS='dymano': there is no 'dymano'; .*unset it$"):
        autellix.init("http://127.0.0.1:10/v1")
    assert runtime.settings is before
