"""LlamaIndex: function agents, a workflow with parallel steps, and plain calls in threads."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from llama_index.llms.openai import OpenAI

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


class Task(Event):
    """One branch to work on."""

    text: str


class Done(Event):
    """One branch is done."""


def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"{topic} come and go"


def llm(model: Model) -> OpenAI:
    """LlamaIndex's client of the model; it wants a name it knows the context length of."""
    return OpenAI(model="gpt-4o-mini", api_base=model.base_url, api_key="key", max_retries=0)


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_function_agent_is_a_chain(model: Model, streaming: bool) -> None:
    """The call that asks for the tool, and the call that answers."""
    model.rule = looks_up_then_answers

    async def run(topic: str) -> str:
        agent = FunctionAgent(tools=[look_up], llm=llm(model), streaming=streaming)
        return str(await agent.run(f"Tell me about {topic}."))

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


async def test_a_react_agent_is_a_chain(model: Model) -> None:
    """Tools asked for in prose."""

    def rule(ask: Ask) -> Reply:
        if ask.turn:
            return f"Thought: I know.\nAnswer: {ANSWERS[ask.topic]}"
        return f'Thought: I have to look.\nAction: look_up\nAction Input: {{"topic": "{ask.topic}"}}'

    model.rule = rule

    async def run(topic: str) -> str:
        return str(await ReActAgent(tools=[look_up], llm=llm(model)).run(f"Tell me about {topic}."))

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


async def test_a_handoff_goes_on_with_the_chain(model: Model) -> None:
    """The agent that takes over is the same thread."""

    def rule(ask: Ask) -> Reply:
        return ANSWERS[ask.topic] if ask.turn else (Use("handoff", {"to_agent": "expert", "reason": "knows"}),)

    model.rule = rule

    async def run(topic: str) -> str:
        clerk = FunctionAgent(name="clerk", description="Asks.", llm=llm(model), can_handoff_to=["expert"])
        expert = FunctionAgent(name="expert", description="Knows.", llm=llm(model))
        workflow = AgentWorkflow(agents=[clerk, expert], root_agent="clerk")
        return str(await workflow.run(user_msg=f"Tell me about {topic}."))

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


async def test_parallel_steps_of_a_workflow_are_threads(model: Model) -> None:
    """A step that sends two events has two workers run side by side, and what collects them waits for both."""
    model.meet = {"Branch": 2 * len(TOPICS)}

    class Debate(Workflow):
        @step
        async def plan(self, ctx: Context, event: StartEvent) -> Task | None:
            await llm(model).acomplete(f"Plan {event.topic}")
            await ctx.store.set("topic", event.topic)
            for side in ("pro", "con"):
                ctx.send_event(Task(text=f"Branch {side} {event.topic}"))
            return None

        @step(num_workers=2)
        async def branch(self, event: Task) -> Done:
            await llm(model).acomplete(event.text)
            return Done()

        @step
        async def verdict(self, ctx: Context, event: Done) -> StopEvent | None:
            if ctx.collect_events(event, [Done, Done]) is None:
                return None
            topic = await ctx.store.get("topic")
            return StopEvent(result=str(await llm(model).acomplete(f"Verdict on {topic}")))

    async def run(topic: str) -> Any:
        return await Debate(timeout=30).run(topic=topic)

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [DIAMOND, DIAMOND]


def test_calls_in_threads_are_a_chain(model: Model) -> None:
    """Whole and streamed, by the sync functions."""

    def run(topic: str) -> str:
        llm(model).complete(f"Plan {topic}")
        return "".join(str(piece.delta) for piece in llm(model).stream_complete(f"Verdict on {topic}"))

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


def test_the_page_about_it_is_right(model: Model) -> None:
    """The code of its page in the documentation runs as it stands."""
    model.rule = looks_up_then_answers
    run_page(model, "llamaindex", look_up=look_up)
    assert model.graphs() == [CHAIN, CHAIN]
