"""The OpenAI Agents SDK: tools, streams, agents as tools and handoffs, on Responses and on chat completions."""

from __future__ import annotations

from typing import Any

import pytest
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from agents import Model as AgentModel
from openai import AsyncOpenAI

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

ON_BOTH_APIS = pytest.mark.parametrize("api", [OpenAIResponsesModel, OpenAIChatCompletionsModel])


@function_tool
def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"{topic} come and go"


def llm(model: Model, api: Any) -> AgentModel:
    """The model as an agent has it."""
    client = AsyncOpenAI(base_url=model.base_url, api_key="key", max_retries=0)
    return api(model="m", openai_client=client)  # type: ignore[no-any-return]


@ON_BOTH_APIS
async def test_an_agent_with_a_tool_is_a_chain(model: Model, api: Any) -> None:
    """The call that asks for the tool, and the call that answers."""
    model.rule = looks_up_then_answers
    agent = Agent(name="reader", model=llm(model, api), tools=[look_up])

    async def run(topic: str) -> Any:
        return (await Runner.run(agent, f"Tell me about {topic}.")).final_output

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


@ON_BOTH_APIS
async def test_a_streamed_run_is_a_chain(model: Model, api: Any) -> None:
    """`run_streamed` runs the agent in a task of its own."""
    model.rule = looks_up_then_answers
    agent = Agent(name="reader", model=llm(model, api), tools=[look_up])

    async def run(topic: str) -> Any:
        result = Runner.run_streamed(agent, f"Tell me about {topic}.")
        async for _ in result.stream_events():
            pass
        return result.final_output

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


@ON_BOTH_APIS
def test_run_sync_in_threads_is_a_chain(model: Model, api: Any) -> None:
    """`run_sync` makes an event loop in each thread; the scope around it is the thread's."""
    model.rule = looks_up_then_answers

    def run(topic: str) -> Any:
        agent = Agent(name="reader", model=llm(model, api), tools=[look_up])
        return Runner.run_sync(agent, f"Tell me about {topic}.").final_output

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


@ON_BOTH_APIS
async def test_agents_as_tools_are_threads(model: Model, api: Any) -> None:
    """Two agents that another one asks at once run side by side, and its answer waits for both."""
    model.meet = {"Branch": 2 * len(TOPICS)}

    def rule(ask: Ask) -> Reply:
        if ask.turn:
            return ANSWERS[ask.topic]
        return tuple(Use(f"ask_{side}", {"input": f"Branch {side} {ask.topic}"}) for side in ("pro", "con"))

    model.rule = rule
    tools = [
        Agent(name=side, model=llm(model, api)).as_tool(f"ask_{side}", f"Arguments {side}.") for side in ("pro", "con")
    ]
    agent = Agent(name="judge", model=llm(model, api), tools=tools)

    async def run(topic: str) -> Any:
        return (await Runner.run(agent, f"Tell me about {topic}.")).final_output

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [DIAMOND, DIAMOND]


async def test_a_handoff_goes_on_with_the_chain(model: Model) -> None:
    """The agent that takes over is the same thread."""
    model.rule = lambda ask: ANSWERS[ask.topic] if ask.turn else (Use("transfer_to_expert"),)
    expert = Agent(name="expert", model=llm(model, OpenAIResponsesModel))
    clerk = Agent(name="clerk", model=llm(model, OpenAIResponsesModel), handoffs=[expert])

    async def run(topic: str) -> Any:
        result = await Runner.run(clerk, f"Tell me about {topic}.")
        return result.last_agent.name, result.final_output

    assert await in_tasks(run) == {topic: ("expert", ANSWERS[topic]) for topic in TOPICS}
    assert model.graphs() == [CHAIN, CHAIN]


def test_the_page_about_it_is_right(model: Model) -> None:
    """The code of its page in the documentation runs as it stands."""
    model.rule = looks_up_then_answers
    run_page(model, "openai-agents", look_up=look_up)
    assert model.graphs() == [CHAIN, CHAIN]
