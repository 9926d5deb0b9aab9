"""LangChain's OpenAI chat model, with the ways of calling that LangChain makes of it, against a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel
from langchain_openai import ChatOpenAI

import autellix_sdk as autellix
from autellix_sdk.wire import CallId
from tests.sdk.conftest import WAIT_S, Backend

Make = Callable[[Backend], ChatOpenAI]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Make a model of a server, with HTTP clients as LangChain makes them."""
    models: list[ChatOpenAI] = []

    def make_one(server: Backend) -> ChatOpenAI:
        # Clients are shared between models, also of other tests, unless given such a time-out.
        models.append(ChatOpenAI(base_url=server.base_url, api_key="key", model="m", timeout=openai.Timeout(WAIT_S)))
        return models[-1]

    yield make_one
    for model in models:
        model.root_client.close()
        await model.root_async_client.close()


@pytest.fixture
def model(backend: Backend, make: Make) -> ChatOpenAI:
    """A model of the backend, made before `init`, which is called then."""
    model = make(backend)
    autellix.init(backend.base_url)
    return model


def _graph(backend: Backend, program: autellix.Program) -> dict[str, tuple[CallId, ...]]:
    """Return the parents of each call, by its ID; all calls are the program's."""
    contexts = backend.contexts
    assert {context.program for context in contexts} == {program.id}
    assert len(contexts) == len(backend.calls)
    return {context.call: tuple(sorted(context.parents or ())) for context in contexts}


def _invoke(model: ChatOpenAI) -> None:
    assert model.invoke("is it?").text == "yes"


def _stream(model: ChatOpenAI) -> None:
    assert list(model.stream("is it?"))


def _raw(model: ChatOpenAI) -> None:
    assert model.bind_tools([{"type": "function", "function": {"name": "f", "parameters": {}}}]).invoke("is it?")


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("call", [_invoke, _stream, _raw])
def test_every_call_is_stamped(backend: Backend, make: Make, call: Callable[[ChatOpenAI], None], early: bool) -> None:
    """One after the other; whether the model was made before `init` or after it."""
    model = make(backend) if early else None
    autellix.init(backend.base_url)
    model = model or make(backend)
    with autellix.program("ask") as p:
        call(model)
        call(model)
    assert _graph(backend, p) == {"0.0": (), "0.1": ("0.0",)}


async def _ainvoke(model: ChatOpenAI) -> None:
    assert (await model.ainvoke("is it?")).text == "yes"


async def _astream(model: ChatOpenAI) -> None:
    assert [chunk async for chunk in model.astream("is it?")]


async def _in_a_thread(model: ChatOpenAI) -> None:
    """A synchronous step in an asynchronous chain runs in an executor."""
    assert (await RunnableLambda(lambda text: model.invoke(text)).ainvoke("is it?")).text == "yes"


@pytest.mark.parametrize("call", [_ainvoke, _astream, _in_a_thread])
async def test_every_async_call_is_stamped(
    backend: Backend, model: ChatOpenAI, call: Callable[[ChatOpenAI], Awaitable[None]]
) -> None:
    """The same with the async client."""
    async with autellix.program("ask") as p:
        await call(model)
        await call(model)
    assert _graph(backend, p) == {"0.0": (), "0.1": ("0.0",)}


JOINED = {"0.0": (), "0.1": ("0.0",), "1.0": ("0.0",), "0.2": ("0.1", "1.0")}
"""A call, two side by side, and one that waited for both."""


def _batch(branch: Runnable[str, Any]) -> None:
    branch.batch(["left", "right"])


def _parallel(branch: Runnable[str, Any]) -> None:
    RunnableParallel(left=branch, right=branch).invoke("is it?")


@pytest.mark.parametrize("fan_out", [_batch, _parallel])
def test_branches_in_threads_are_threads(
    backend: Backend, model: ChatOpenAI, fan_out: Callable[[Runnable[str, Any]], None]
) -> None:
    """LangChain runs them in a pool. A branch that was done before the next one is begun would be its parent."""
    both_there = threading.Barrier(2, timeout=WAIT_S)

    def meet(text: str) -> str:
        both_there.wait()
        return text

    with autellix.program() as p:
        model.invoke("before")
        fan_out(RunnableLambda(meet) | model)
        model.invoke("after")
    assert _graph(backend, p) == JOINED


async def _abatch(model: ChatOpenAI) -> None:
    await model.abatch(["left", "right"])


async def _aparallel(model: ChatOpenAI) -> None:
    await RunnableParallel(left=model, right=model).ainvoke("is it?")


@pytest.mark.parametrize("fan_out", [_abatch, _aparallel])
async def test_branches_in_tasks_are_threads(
    backend: Backend, model: ChatOpenAI, fan_out: Callable[[ChatOpenAI], Awaitable[None]]
) -> None:
    """LangChain gathers them."""
    async with autellix.program() as p:
        await model.ainvoke("before")
        await fan_out(model)
        await model.ainvoke("after")
    assert _graph(backend, p) == JOINED


async def test_chains_side_by_side_stay_apart(backend: Backend, model: ChatOpenAI) -> None:
    """Each is a program with its own calls, on one model."""

    async def run(name: str) -> autellix.Program:
        async with autellix.program(name) as p:
            await (model | RunnableLambda(lambda reply: reply.text) | model).ainvoke("is it?")
        return p

    programs = await asyncio.gather(*(run(f"chain {number}") for number in range(5)))
    for p in programs:
        calls = [(one.call, one.parents) for one in backend.contexts if one.program == p.id]
        assert calls == [("0.0", ()), ("0.1", ("0.0",))]
    assert len(backend.contexts) == 10


def test_retries_repeat_the_call_id(backend: Backend, model: ChatOpenAI) -> None:
    """They are the openai client's."""
    backend.statuses = [429, 500]
    with autellix.program() as p:
        _invoke(model)
    assert [(context.call, context.retry) for context in backend.contexts] == [("0.0", 0), ("0.0", 1), ("0.0", 2)]
    assert p.bill().calls == 1


def test_a_model_can_be_wrapped(backend: Backend, elsewhere: Backend, model: ChatOpenAI, make: Make) -> None:
    """It is the same object; a model of another server is left alone."""
    other = make(elsewhere)
    assert autellix.wrap(model) is model
    with autellix.program():
        _invoke(model)
        _invoke(other)
    assert (len(backend.contexts), elsewhere.contexts) == (1, [])
