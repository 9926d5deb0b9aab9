"""CrewAI: a crew of two tasks, tasks side by side, an agent with a tool, and a flow."""

from __future__ import annotations

from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, and_, listen, start
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
    run_page,
)


@tool
def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"{topic} come and go"


def client(model: Model) -> LLM:
    """CrewAI's client of the model."""
    return LLM(model="openai/m", base_url=model.base_url, api_key="key", max_retries=0)


def agent(model: Model, **options: Any) -> Agent:
    """An agent."""
    return Agent(role="writer", goal="write", backstory="Writes.", llm=client(model), **options)


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


class Debate(Flow[dict[str, Any]]):
    """A flow that plans, lets two steps run side by side, and joins them."""

    def __init__(self, llm: LLM, topic: str) -> None:
        super().__init__(suppress_flow_events=True)
        self._llm = llm
        self._topic = topic

    @start()
    def plan(self) -> Any:
        """Call before the branches."""
        return self._llm.call(f"Plan {self._topic}")

    @listen(plan)
    def pro(self) -> Any:
        """Call in one branch."""
        return self._llm.call(f"Branch for {self._topic}")

    @listen(plan)
    def con(self) -> Any:
        """Call in the other one."""
        return self._llm.call(f"Branch against {self._topic}")

    @listen(and_(pro, con))
    def verdict(self) -> Any:
        """Call after both."""
        return self._llm.call(f"Verdict on {self._topic}")


JOINS_LAST = [
    {"0.0": set(), "0.1": {"0.0"}, "1.0": {"0.0"}, "0.2": {"0.1"}},
    {"0.0": set(), "0.1": {"0.0"}, "1.0": {"0.0"}, "1.1": {"1.0"}},
]
"""Call graphs of a flow: the step that listens to both branches runs inside the one that finished last."""


def test_parallel_steps_of_a_flow_are_threads(model: Model) -> None:
    """What listens to the same step runs side by side; what listens to both goes on with the last of them alone."""
    model.meet = {"Branch": 2 * len(TOPICS)}
    assert in_threads(lambda topic: Debate(client(model), topic).kickoff()) == ANSWERS
    assert all(graph in JOINS_LAST for graph in model.graphs())


async def test_parallel_steps_of_an_async_flow_are_threads(model: Model) -> None:
    """The same on one event loop."""
    model.meet = {"Branch": 2 * len(TOPICS)}
    assert await in_tasks(lambda topic: Debate(client(model), topic).kickoff_async()) == ANSWERS
    assert all(graph in JOINS_LAST for graph in model.graphs())


def test_the_page_about_it_is_right(model: Model) -> None:
    """The code of its page in the documentation runs as it stands."""
    model.rule = looks_up_then_answers
    run_page(model, "crewai", look_up=look_up)
    assert model.graphs() == [CHAIN, CHAIN]
