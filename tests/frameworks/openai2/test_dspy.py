"""DSPy: a ReAct agent, sync and async, and modules run in parallel."""

from __future__ import annotations

import re
import threading
from typing import Any

import dspy

from tests.frameworks.conftest import ANSWERS, CHAIN, DIAMOND, TOPICS, Ask, Model, in_tasks, in_threads, run_page

STEPS = [
    {"next_thought": "I have to look.", "next_tool_name": "look_up", "next_tool_args": '{"topic": "TOPIC"}'},
    {"next_thought": "I know.", "next_tool_name": "finish", "next_tool_args": "{}"},
    {"reasoning": "I looked.", "answer": "ANSWER"},
]
"""What the model fills in, call by call: it looks up, finishes, and extracts the answer."""


def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"{topic} come and go"


def fill_in(ask: Ask, fields: dict[str, str]) -> str:
    """Answer in DSPy's format."""
    filled = {
        name: value.replace("TOPIC", ask.topic).replace("ANSWER", ANSWERS[ask.topic]) for name, value in fields.items()
    }
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in filled.items()) + "\n\n[[ ## completed ## ]]"


def llm(model: Model) -> dspy.LM:
    """DSPy's client of the model: on LiteLLM, and without its cache, which answers without a call."""
    options = {"api_base": model.base_url, "api_key": "key", "cache": False, "num_retries": 0}
    return dspy.LM("openai/m", engine="litellm", **options)


THREE_STEPS: dict[str, set[str]] = {**CHAIN, "0.2": {"0.1"}}


def test_a_react_agent_is_a_chain(model: Model) -> None:
    """Look, finish, extract."""
    model.rule = lambda ask: fill_in(ask, STEPS[ask.turn])

    def run(topic: str) -> Any:
        with dspy.context(lm=llm(model)):
            return dspy.ReAct("question -> answer", tools=[look_up])(question=f"What of {topic}?").answer

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [THREE_STEPS, THREE_STEPS]


async def test_an_async_react_agent_is_a_chain(model: Model) -> None:
    """The same by `acall`."""
    model.rule = lambda ask: fill_in(ask, STEPS[ask.turn])

    async def run(topic: str) -> Any:
        with dspy.context(lm=llm(model)):
            agent = dspy.ReAct("question -> answer", tools=[look_up])
            return (await agent.acall(question=f"What of {topic}?")).answer

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [THREE_STEPS, THREE_STEPS]


def test_modules_in_parallel_are_threads(model: Model) -> None:
    """`dspy.Parallel` runs them in a pool; what comes next waits for all."""
    model.meet = {f"Branch {topic}": 2 for topic in TOPICS}
    model.rule = lambda ask: fill_in(ask, {"answer": "ANSWER"})
    one_at_a_time = threading.Lock()  # two of them trip over each other's progress bar
    predict = dspy.Predict("question -> answer")

    def run(topic: str) -> Any:
        with dspy.context(lm=llm(model)):
            predict(question=f"Plan {topic}")
            branches = [
                (predict, dspy.Example(question=f"Branch {topic}, {side}").with_inputs("question"))
                for side in ("pro", "con")
            ]
            with one_at_a_time:
                dspy.Parallel(num_threads=2, disable_progress_bar=True)(branches)
            return predict(question=f"Verdict on {topic}").answer

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [DIAMOND, DIAMOND]


def test_dspy_asks_in_the_format_of_this_script(model: Model) -> None:
    """The fields that the script fills in are those that the prompt names."""
    model.rule = lambda ask: fill_in(ask, {"answer": "ANSWER"})

    def run(topic: str) -> Any:
        with dspy.context(lm=llm(model)):
            return dspy.Predict("question -> answer")(question=f"What of {topic}?").answer

    in_threads(run)
    assert all(set(re.findall(r"\[\[ ## (\w+) ## ]]", ask.text)) >= {"question", "answer"} for ask in model.asks)


def test_its_own_engine_is_not_seen(model: Model) -> None:
    """Without `engine`, DSPy sends what it can by an HTTP client of its own; the page about DSPy says so."""
    model.rule = lambda ask: fill_in(ask, {"answer": "ANSWER"})

    def run(topic: str) -> Any:
        with dspy.context(lm=dspy.LM("openai/m", api_base=model.base_url, api_key="key", cache=False)):
            return dspy.Predict("question -> answer")(question=f"What of {topic}?").answer

    assert in_threads(run) == ANSWERS
    assert [ask.seen.context for ask in model.asks] == [None, None]


def test_the_page_about_it_is_right(model: Model) -> None:
    """The code of its page in the documentation runs as it stands."""
    model.rule = lambda ask: fill_in(ask, STEPS[ask.turn])
    run_page(model, "dspy", look_up=look_up)
    assert model.graphs() == [THREE_STEPS, THREE_STEPS]
