"""AutoGen: an assistant with a tool, teams in turn, and a flow with parallel branches."""

from __future__ import annotations

from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import DiGraphBuilder, GraphFlow, RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient

from tests.frameworks.conftest import ANSWERS, CHAIN, DIAMOND, TOPICS, Model, in_tasks, looks_up_then_answers, run_page


async def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"{topic} come and go"


def assistant(model: Model, name: str, **options: Any) -> AssistantAgent:
    """An agent."""
    info: Any = {
        "vision": False,
        "function_calling": True,
        "json_output": False,
        "family": "unknown",
        "structured_output": False,
    }
    client = OpenAIChatCompletionClient(
        model="m", base_url=model.base_url, api_key="key", model_info=info, max_retries=0
    )
    return AssistantAgent(name, model_client=client, **options)


async def test_an_assistant_with_a_tool_is_a_chain(model: Model) -> None:
    """The call that asks for the tool, and the call that reflects on what it found."""
    model.rule = looks_up_then_answers

    async def run(topic: str) -> Any:
        agent = assistant(model, "reader", tools=[look_up], reflect_on_tool_use=True)
        return (await agent.run(task=f"Tell me about {topic}.")).messages[-1].content  # type: ignore[union-attr]

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


async def test_a_team_that_takes_turns_is_a_chain(model: Model) -> None:
    """Each speaks after the other; its runtime hands their messages over by queues."""

    async def run(topic: str) -> Any:
        members: list[Any] = [assistant(model, "writer"), assistant(model, "critic")]
        team = RoundRobinGroupChat(members, termination_condition=MaxMessageTermination(3))
        return (await team.run(task=f"Tell me about {topic}.")).messages[-1].content  # type: ignore[union-attr]

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


async def test_parallel_branches_of_a_flow_are_threads(model: Model) -> None:
    """Two agents that follow the same one run side by side, and the one that follows both waits for them."""
    model.meet = {"Branch": 2 * len(TOPICS)}

    async def run(topic: str) -> Any:
        plan, verdict = assistant(model, "plan"), assistant(model, "verdict")
        branches = [assistant(model, side, system_message=f"Branch {side}") for side in ("pro", "con")]
        builder = DiGraphBuilder()
        for node in (plan, *branches, verdict):
            builder.add_node(node)
        for branch in branches:
            builder.add_edge(plan, branch)
            builder.add_edge(branch, verdict)
        flow = GraphFlow(builder.get_participants(), graph=builder.build())
        return [
            message.content  # type: ignore[union-attr]
            for message in (await flow.run(task=f"Tell me about {topic}.")).messages
            if message.source == "verdict"
        ]

    assert await in_tasks(run) == {topic: [ANSWERS[topic]] for topic in TOPICS}
    assert model.graphs() == [DIAMOND, DIAMOND]


def test_the_page_about_it_is_right(model: Model) -> None:
    """The code of its page in the documentation runs as it stands."""
    model.rule = looks_up_then_answers
    run_page(model, "autogen", look_up=look_up)
    assert model.graphs() == [CHAIN, CHAIN]
