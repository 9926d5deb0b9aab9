"""CrewAI: a crew of two tasks, tasks side by side, an agent with a tool, and a flow."""

from __future__ import annotations

from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

from tests.frameworks.conftest import (
    ANSWERS,
    CHAIN,
    DIAMOND,
    TOPICS,
    Ask,
    Model,
    Reply,
    in_tasks,
    in_threads,
    looks_up_then_answers,
)


@tool
def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"{topic} come and go"


def agent(model: Model, **options: Any) -> Agent:
    """An agent."""
    llm = LLM(model="openai/m", base_url=model.base_url, api_key="key", max_retries=0)
    return Agent(role="writer", goal="write", backstory="Writes.", llm=llm, **options)


def says(ask: Ask) -> Reply:
    """Answer in CrewAI's words."""
    return f"Thought: I know.\nFinal Answer: {ANSWERS[ask.topic]}"


def crew(model: Model, topic: str) -> Crew:
    """Two tasks, one after the other."""
    writer = agent(model)
    tasks = [
        Task(description=f"{verb} about {topic}.", expected_output="A text.", agent=writer)
        for verb in ("Plan", "Write")
    ]
    return Crew(agents=[writer], tasks=tasks)


def test_a_crew_of_two_tasks_is_a_chain(model: Model) -> None:
    """One after the other."""
    model.rule = says
    assert in_threads(lambda topic: crew(model, topic).kickoff().raw) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


async def test_a_crew_kicked_off_from_a_task_is_a_chain(model: Model) -> None:
    """`kickoff_async` runs the crew in a thread."""
    model.rule = says

    async def run(topic: str) -> str:
        return (await crew(model, topic).kickoff_async()).raw

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


def test_an_agent_with_a_tool_is_a_chain(model: Model) -> None:
    """The call that asks for the tool, and the call that answers."""
    model.rule = looks_up_then_answers

    def run(topic: str) -> str:
        writer = agent(model, tools=[look_up])
        task = Task(description=f"Write about {topic}.", expected_output="A text.", agent=writer)
        return Crew(agents=[writer], tasks=[task]).kickoff().raw

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


def test_tasks_side_by_side_are_threads(model: Model) -> None:
    """Tasks with `async_execution` run in threads; the task that has them as its context waits for both."""
    model.rule = says
    model.meet = {"Branch": 2 * len(TOPICS)}

    def run(topic: str) -> str:
        def task(text: str, **options: Any) -> Task:
            return Task(description=f"{text} {topic}.", expected_output="A text.", agent=agent(model), **options)

        plan = task("Plan")
        branches = [task(f"Branch {side}", async_execution=True, context=[plan]) for side in ("pro", "con")]
        tasks = [plan, *branches, task("Verdict on", context=branches)]
        return Crew(agents=[each.agent for each in tasks if each.agent], tasks=tasks).kickoff().raw

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [DIAMOND, DIAMOND]
