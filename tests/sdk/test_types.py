"""A user's code as type checkers see it: `make types` checks this file, strictly, and here it runs as well.

A line that ends in ``type: ignore`` has to be refused: a checker that accepts it reports the comment.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, assert_type

import aiohttp
import httpx
import openai
import pytest

import autellix_sdk as autellix

BASE_URL = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def offline(clean_client: None) -> None:
    """The client is on; no call leaves the process."""
    assert_type(autellix.init(BASE_URL, api_key="key", implicit="root", dialects=["dynamo"]), None)


def test_a_scope_is_a_context_manager() -> None:
    """Sync and async; what it gives is the program, and nothing is suppressed."""

    async def agent() -> str:
        async with autellix.program("research") as p:
            assert_type(p, autellix.Program)
            return p.id

    with autellix.program("research", id="turn-7") as p:
        assert_type(p, autellix.Program)
        assert_type(p.name, str | None)
        assert_type(autellix.current(), autellix.Program | None)
    assert asyncio.run(agent()) != p.id == "turn-7"


def test_decorators_keep_signatures() -> None:
    """Of functions, coroutine functions, generators and methods, for `program` and for `bind`."""

    @autellix.program("add")
    def add(x: int, y: int = 2) -> int:
        return x + y

    @autellix.program("ask")
    async def ask(question: str) -> str:
        return question + "!"

    @autellix.program()
    def count(to: int) -> Iterator[int]:
        yield from range(to)

    @autellix.program()
    async def stream(text: str) -> AsyncIterator[str]:
        for char in text:
            yield char

    class Agent:
        @autellix.program("agent")
        def run(self, steps: int) -> list[int]:
            return list(range(steps))

    async def main() -> str:
        return await ask("so") + "".join([char async for char in stream("it is")])

    assert_type(add(1), int)
    assert_type(count(3), Iterator[int])
    assert_type(stream("x"), AsyncIterator[str])
    assert_type(Agent().run(2), list[int])
    assert_type(autellix.bind(add)(1, y=3), int)
    with pytest.raises(TypeError):
        add("1")  # type: ignore[arg-type]
    assert (asyncio.run(main()), list(count(3)), Agent().run(2)) == ("so!it is", [0, 1, 2], [0, 1])


def test_wrap_returns_the_type_it_takes() -> None:
    """So it can stand where the client is made."""
    with autellix.wrap(openai.OpenAI(base_url=BASE_URL, api_key="key")) as client:
        assert_type(client, openai.OpenAI)
    with autellix.wrap(httpx.Client()) as http:
        assert_type(http, httpx.Client)
    assert_type(autellix.wrap(openai.AsyncOpenAI(base_url=BASE_URL, api_key="key")), openai.AsyncOpenAI)


def test_bills() -> None:
    """What a bill is made of, and who is told of it."""
    with autellix.program() as p:
        bill = p.bill(wait_s=0.5)
    assert_type(bill, autellix.ProgramBill)
    assert_type(bill.time, autellix.TimeSplit)
    assert_type(bill.time.prefill_us + bill.elapsed_us, int)
    told: list[autellix.Finished] = []
    with autellix.watch(told.append) as watch:
        assert_type(watch, autellix.Watch)
    assert_type(autellix.watch(io.StringIO()).close(), None)
    autellix.watch().close()


def test_handing_identity_over() -> None:
    """Handles, and headers of any mapping."""

    async def attached(handle: autellix.Handle) -> None:
        async with handle.attach():
            assert_type(autellix.headers(), dict[str, str])

    handle = autellix.capture()
    assert_type(handle, autellix.Handle)
    with handle.attach() as nothing:
        assert_type(nothing, None)
    attachment = handle.attach()
    assert_type(attachment, autellix.Attachment)
    asyncio.run(attached(handle))
    assert_type(autellix.inject(), dict[str, str])
    assert_type(autellix.inject(httpx.Headers()), httpx.Headers)
    assert_type(autellix.extract(httpx.Headers()), autellix.Handle)


def test_transports_and_servers() -> None:
    """What goes into frameworks has the types that they ask for."""

    async def asgi_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({})

    def wsgi_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return [b""]

    assert_type(autellix.asgi(asgi_app, name="answer", trust_callers=True), Callable[..., Awaitable[None]])
    assert_type(autellix.wsgi(wsgi_app, name="answer"), Callable[..., Iterable[bytes]])
    assert_type(autellix.aiohttp_trace_config(), aiohttp.TraceConfig)
    with asyncio.Runner() as runner:
        runner.get_loop().set_task_factory(autellix.task_factory())


def test_misuse_is_refused() -> None:
    """By the type checker where it can, and else by an error of the package's own tree."""
    with pytest.raises(autellix.UsageError):
        autellix.init(BASE_URL, implicit="sometimes")  # type: ignore[arg-type]
    with pytest.raises(autellix.UsageError):
        autellix.program(7)  # type: ignore[arg-type]
    errors: list[type[autellix.AutellixError]] = [autellix.UsageError, autellix.ConfigurationError]
    assert all(issubclass(error, autellix.AutellixError) for error in errors)
    assert_type(autellix.shutdown(), None)
