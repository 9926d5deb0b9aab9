"""Pydantic AI: tools, streams, typed output and delegation, on three APIs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.frameworks.conftest import (
    ANSWERS,
    CHAIN,
    DIAMOND,
    TOPICS,
    Ask,
    Model,
    Reply,
    Use,
    in_tasks,
    in_threads,
    looks_up_then_answers,
    run_page,
)


def chat(model: Model) -> Any:
    """The model by chat completions."""
    return OpenAIChatModel("m", provider=_openai(model))


def responses(model: Model) -> Any:
    """The model by Responses."""
    return OpenAIResponsesModel("m", provider=_openai(model))


def messages(model: Model) -> Any:
    """The model by Messages."""
    client = AsyncAnthropic(base_url=model.url, api_key="key", max_retries=0)
    return AnthropicModel("m", provider=AnthropicProvider(anthropic_client=client))


def _openai(model: Model) -> OpenAIProvider:
    client = AsyncOpenAI(base_url=model.base_url, api_key="key", max_retries=0)
    return OpenAIProvider(openai_client=client)


Llm = Callable[[Model], Any]
ON_ALL_APIS = pytest.mark.parametrize("llm", [chat, responses, messages])


def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"{topic} come and go"


@ON_ALL_APIS
async def test_an_agent_with_a_tool_is_a_chain(model: Model, llm: Llm) -> None:
    """The call that asks for the tool, which runs in a thread, and the call that answers."""
    model.rule = looks_up_then_answers
    agent = Agent(llm(model), tools=[look_up])

    async def run(topic: str) -> str:
        return (await agent.run(f"Tell me about {topic}.")).output

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


@ON_ALL_APIS
async def test_a_streamed_run_is_a_chain(model: Model, llm: Llm) -> None:
    """The text of the last call comes piece by piece."""
    model.rule = looks_up_then_answers
    agent = Agent(llm(model), tools=[look_up])

    async def run(topic: str) -> str:
        async with agent.run_stream(f"Tell me about {topic}.") as result:
            return "".join([piece async for piece in result.stream_text(delta=True)])

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


@ON_ALL_APIS
def test_run_sync_in_threads_is_a_chain(model: Model, llm: Llm) -> None:
    """`run_sync` makes an event loop in each thread; the scope around it is the thread's."""
    model.rule = looks_up_then_answers

    def run(topic: str) -> str:
        return Agent(llm(model), tools=[look_up]).run_sync(f"Tell me about {topic}.").output

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


async def test_a_typed_output_that_is_asked_for_again_is_a_chain(model: Model) -> None:
    """What does not fit the type goes back to the model in the same thread."""

    class Report(BaseModel):
        topic: str

    model.rule = lambda ask: (Use("final_result", {"topic": ask.topic} if ask.turn else {}),)
    agent = Agent(chat(model), output_type=Report)

    async def run(topic: str) -> str:
        return (await agent.run(f"Tell me about {topic}.")).output.topic

    assert await in_tasks(run) == {topic: topic for topic in TOPICS}
    assert model.graphs() == [CHAIN, CHAIN]


async def test_agents_asked_by_tools_are_threads(model: Model) -> None:
    """Two tool calls of one answer run side by side, each asks another agent, and the end waits for both."""
    model.meet = {"Branch": 2 * len(TOPICS)}

    def rule(ask: Ask) -> Reply:
        if ask.turn:
            return ANSWERS[ask.topic]
        return tuple(Use("delegate", {"task": f"Branch {side} {ask.topic}"}) for side in ("pro", "con"))

    model.rule = rule
    expert = Agent(chat(model))
    agent = Agent(chat(model))

    @agent.tool_plain
    async def delegate(task: str) -> str:
        """Have an expert do it."""
        return (await expert.run(task)).output

    async def run(topic: str) -> str:
        return (await agent.run(f"Tell me about {topic}.")).output

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [DIAMOND, DIAMOND]


def test_the_page_about_it_is_right(model: Model) -> None:
    """The code of its page in the documentation runs as it stands."""
    model.rule = looks_up_then_answers
    run_page(model, "pydantic-ai", look_up=look_up)
    assert model.graphs() == [CHAIN, CHAIN]
