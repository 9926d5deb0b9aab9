"""LangGraph: graphs and agents on langchain-openai, sync and async, whole and streamed."""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from tests.frameworks.conftest import (
    ANSWERS,
    CHAIN,
    DIAMOND,
    TOPICS,
    Model,
    in_tasks,
    in_threads,
    looks_up_then_answers,
    run_page,
)


class State(TypedDict):
    """What the nodes of the graph share."""

    topic: str
    notes: Annotated[list[str], operator.add]


def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"{topic} come and go"


def chat(model: Model, **options: Any) -> ChatOpenAI:
    """LangChain's client of the model."""
    return ChatOpenAI(model="m", base_url=model.base_url, api_key="key", max_retries=0, **options)


def question(topic: str) -> Any:
    """What an agent is asked."""
    return {"messages": [("user", f"Tell me about {topic}.")]}


def invoke(agent: Any, topic: str) -> str:
    """Run an agent."""
    return str(agent.invoke(question(topic))["messages"][-1].content)


def stream(agent: Any, topic: str) -> str:
    """Run an agent and take its messages token by token."""
    said = [chunk.text for chunk, _ in agent.stream(question(topic), stream_mode="messages") if chunk.type != "tool"]
    return "".join(map(str, said))


async def ainvoke(agent: Any, topic: str) -> str:
    """Run an agent."""
    return str((await agent.ainvoke(question(topic)))["messages"][-1].content)


async def astream(agent: Any, topic: str) -> str:
    """Run an agent and take its messages token by token."""
    steps = agent.astream(question(topic), stream_mode="messages")
    return "".join([str(chunk.text) async for chunk, _ in steps if chunk.type != "tool"])


@pytest.mark.parametrize("run", [invoke, stream])
def test_an_agent_with_a_tool_is_a_chain(model: Model, run: Callable[[Any, str], str]) -> None:
    """The call that asks for the tool, and the call that answers."""
    model.rule = looks_up_then_answers
    agent = create_agent(chat(model), [look_up])
    assert in_threads(lambda topic: run(agent, topic)) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


@pytest.mark.parametrize("run", [ainvoke, astream])
async def test_an_async_agent_with_a_tool_is_a_chain(model: Model, run: Callable[[Any, str], Awaitable[str]]) -> None:
    """The same on one event loop."""
    model.rule = looks_up_then_answers
    agent = create_agent(chat(model), [look_up])
    assert await in_tasks(lambda topic: run(agent, topic)) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


def debate(plan: Any, pro: Any, con: Any, verdict: Any) -> Any:
    """A graph that plans, lets two branches run side by side, and joins them."""
    graph = StateGraph(State)
    for name, node in (("plan", plan), ("pro", pro), ("con", con), ("verdict", verdict)):
        graph.add_node(name, node)
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "pro")
    graph.add_edge("plan", "con")
    graph.add_edge(["pro", "con"], "verdict")
    graph.add_edge("verdict", END)
    return graph.compile()


def test_parallel_branches_are_threads(model: Model) -> None:
    """Both branches wait for the plan, the verdict waits for both; the branches run in threads of a pool."""
    model.meet = {"Branch": 2 * len(TOPICS)}
    llm = chat(model)

    def node(task: str) -> Callable[[State], Any]:
        return lambda state: {"notes": [llm.invoke(f"{task} {state['topic']}").content]}

    graph = debate(node("Plan"), node("Branch for"), node("Branch against"), node("Verdict on"))
    notes = in_threads(lambda topic: graph.invoke({"topic": topic, "notes": []})["notes"])
    assert notes == {topic: [ANSWERS[topic]] * 4 for topic in TOPICS}
    assert model.graphs() == [DIAMOND, DIAMOND]


def test_branches_in_threads_without_a_scope_are_programs_of_their_own(model: Model) -> None:
    """Outside tasks nobody says that they belong together; the page about all frameworks says so."""
    model.meet = {"Branch": 2 * len(TOPICS)}
    llm = chat(model)

    def node(task: str) -> Callable[[State], Any]:
        return lambda state: {"notes": [llm.invoke(f"{task} {state['topic']}").content]}

    graph = debate(node("Plan"), node("Branch for"), node("Branch against"), node("Verdict on"))
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(lambda topic: graph.invoke({"topic": topic, "notes": []}), TOPICS):
            pass
    for topic in TOPICS:
        plan, *branches, verdict = [ask.seen.context for ask in model.asks if ask.topic == topic]
        assert plan is not None
        assert verdict is not None
        assert plan.program == verdict.program
        assert len({plan.program, *(branch.program for branch in branches if branch)}) == 3


async def test_async_parallel_branches_are_threads(model: Model) -> None:
    """The same with branches that are tasks."""
    model.meet = {"Branch": 2 * len(TOPICS)}
    llm = chat(model)

    def node(task: str) -> Callable[[State], Any]:
        async def run(state: State) -> Any:
            return {"notes": [(await llm.ainvoke(f"{task} {state['topic']}")).content]}

        return run

    graph = debate(node("Plan"), node("Branch for"), node("Branch against"), node("Verdict on"))
    await in_tasks(lambda topic: graph.ainvoke({"topic": topic, "notes": []}))
    assert model.graphs() == [DIAMOND, DIAMOND]


async def test_sent_branches_are_threads(model: Model) -> None:
    """`Send` makes as many branches as the state asks for; synchronous nodes of an async run go to a pool."""
    model.meet = {"Branch": 3 * len(TOPICS)}
    llm = chat(model)

    def part(state: State) -> Any:
        return {"notes": [llm.invoke(f"Branch {state['topic']}").content]}

    def parts(state: State) -> list[Send]:
        return [Send("part", {"topic": f"{number} of {state['topic']}", "notes": []}) for number in range(3)]

    def summary(state: State) -> Any:
        return {"notes": [llm.invoke(f"Sum up {state['topic']}").content]}

    graph = StateGraph(State)
    graph.add_node("part", part)
    graph.add_node("summary", summary)
    graph.add_conditional_edges(START, parts, ["part"])
    graph.add_edge("part", "summary")
    graph.add_edge("summary", END)
    compiled = graph.compile()
    await in_tasks(lambda topic: compiled.ainvoke({"topic": topic, "notes": []}))
    parts_and_summary = {"0.0": set(), "1.0": set(), "2.0": set(), "0.1": {"0.0", "1.0", "2.0"}}
    assert model.graphs() == [parts_and_summary, parts_and_summary]


def test_the_page_about_it_is_right(model: Model) -> None:
    """The code of its page in the documentation runs as it stands."""
    model.rule = looks_up_then_answers
    run_page(model, "langgraph", look_up=look_up)
    assert model.graphs() == [CHAIN, CHAIN]
