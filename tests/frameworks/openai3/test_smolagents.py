"""smolagents: agents that write code, agents that call tools, and tools asked at once."""

from __future__ import annotations

from typing import Any

from smolagents import CodeAgent, LogLevel, OpenAIModel, ToolCallingAgent, tool

from tests.frameworks.conftest import ANSWERS, CHAIN, DIAMOND, TOPICS, Ask, Model, Reply, Use, in_threads, run_page


@tool
def look_up(topic: str) -> str:
    """Look a topic up.

    Args:
        topic: the topic.
    """
    return f"{topic} come and go"


def llm(model: Model) -> OpenAIModel:
    """The model as an agent has it."""
    return OpenAIModel("m", api_base=model.base_url, api_key="key", client_kwargs={"max_retries": 0})


def writes_code(ask: Ask) -> Reply:
    """The rule of an agent that writes code: it looks up, then answers."""
    code = f'final_answer("{ANSWERS[ask.topic]}")' if ask.turn else f'print(look_up("{ask.topic}"))'
    return f"Thought: so be it.\n<code>\n{code}\n</code>"


def test_an_agent_that_writes_code_is_a_chain(model: Model) -> None:
    """Code that looks up, and code that answers."""
    model.rule = writes_code

    def run(topic: str) -> Any:
        agent = CodeAgent([look_up], llm(model), verbosity_level=LogLevel.OFF)
        return agent.run(f"Tell me about {topic}.")

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


def test_an_agent_that_calls_tools_is_a_chain(model: Model) -> None:
    """The call that asks for the tool, and the call that answers."""

    def rule(ask: Ask) -> Reply:
        if ask.turn:
            return (Use("final_answer", {"answer": ANSWERS[ask.topic]}),)
        return (Use("look_up", {"topic": ask.topic}),)

    model.rule = rule

    def run(topic: str) -> Any:
        agent = ToolCallingAgent([look_up], llm(model), verbosity_level=LogLevel.OFF)
        return agent.run(f"Tell me about {topic}.")

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


def test_managed_agents_asked_at_once_are_threads(model: Model) -> None:
    """An agent runs the tool calls of one answer in a pool, managed agents among them."""
    model.meet = {"Branch": 2 * len(TOPICS)}

    def rule(ask: Ask) -> Reply:
        if ask.turn:
            return (Use("final_answer", {"answer": ANSWERS[ask.topic]}),)
        return tuple(Use(side, {"task": f"Branch {side} {ask.topic}"}) for side in ("pro", "con"))

    model.rule = rule

    def run(topic: str) -> Any:
        experts = [
            ToolCallingAgent([], llm(model), name=side, description=side, verbosity_level=LogLevel.OFF)
            for side in ("pro", "con")
        ]
        judge = ToolCallingAgent([], llm(model), managed_agents=experts, verbosity_level=LogLevel.OFF)
        return judge.run(f"Tell me about {topic}.")

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [DIAMOND, DIAMOND]


def test_the_page_about_it_is_right(model: Model) -> None:
    """The code of its page in the documentation runs as it stands."""
    model.rule = writes_code
    run_page(model, "smolagents", look_up=look_up)
    assert model.graphs() == [CHAIN, CHAIN]
