"""The anthropic client against ``/v1/messages``: plain, streamed, and its tool runner."""

from __future__ import annotations

import asyncio
from typing import Any

from anthropic import Anthropic, AsyncAnthropic, beta_async_tool, beta_tool

import autellix_sdk as autellix
from tests.frameworks.conftest import (
    ANSWERS,
    CHAIN,
    DIAMOND,
    ONE_CALL,
    TOPICS,
    Model,
    in_tasks,
    in_threads,
    looks_up_then_answers,
    run_page,
)


def question(topic: str) -> dict[str, Any]:
    """A request about a topic."""
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": f"Tell me about {topic}."}]}


def test_calls_in_a_row_are_a_chain(model: Model) -> None:
    """A whole answer and a streamed one, of the sync client."""
    client = Anthropic(base_url=model.url, api_key="key", max_retries=0)

    def run(topic: str) -> Any:
        first = client.messages.create(**question(topic)).content[0]
        with client.messages.stream(**question(topic)) as stream:
            return first.text, stream.get_final_text()  # type: ignore[union-attr]

    assert in_threads(run) == {topic: (ANSWERS[topic], ANSWERS[topic]) for topic in TOPICS}
    assert model.graphs() == [CHAIN, CHAIN]
    assert {seen.path for seen in model.calls} == set()
    assert {ask.seen.path for ask in model.asks} == {"/v1/messages"}


async def test_async_calls_at_once_are_threads(model: Model) -> None:
    """A plan, two branches and a summary, of the async client."""
    model.meet = {"Branch": 2 * len(TOPICS)}
    client = AsyncAnthropic(base_url=model.url, api_key="key", max_retries=0)

    async def ask(text: str) -> str:
        return (await client.messages.create(**question(text))).content[0].text  # type: ignore[union-attr]

    async def run(topic: str) -> str:
        await ask(topic)
        await asyncio.gather(ask(f"Branch for {topic}"), ask(f"Branch against {topic}"))
        return await ask(topic)

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [DIAMOND, DIAMOND]


def test_the_tool_runner_is_a_chain(model: Model) -> None:
    """The call that asks for the tool, and the call that answers."""
    model.rule = looks_up_then_answers
    client = Anthropic(base_url=model.url, api_key="key", max_retries=0)

    @beta_tool
    def look_up(topic: str) -> str:
        """Look a topic up."""
        return f"{topic} come and go"

    def run(topic: str) -> Any:
        runner = client.beta.messages.tool_runner(**question(topic), tools=[look_up])
        return runner.until_done().content[0].text  # type: ignore[union-attr]

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


async def test_the_async_tool_runner_is_a_chain(model: Model) -> None:
    """The same with the async client, streamed."""
    model.rule = looks_up_then_answers
    client = AsyncAnthropic(base_url=model.url, api_key="key", max_retries=0)

    @beta_async_tool
    async def look_up(topic: str) -> str:
        """Look a topic up."""
        return f"{topic} come and go"

    async def run(topic: str) -> Any:
        runner = client.beta.messages.tool_runner(**question(topic), tools=[look_up], stream=True)
        async for stream in runner:
            message = await stream.get_final_message()
        return message.content[0].text

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


def test_wrap_knows_the_client(model: Model) -> None:
    """Its base URL is above the backend's, and what it calls is below."""
    client = Anthropic(base_url=model.url, api_key="key")
    assert autellix.wrap(client) is client


def test_the_page_about_it_is_right(model: Model) -> None:
    """The code of its page in the documentation runs as it stands."""
    run_page(model, "anthropic")
    assert model.graphs() == [ONE_CALL, ONE_CALL]
