"""The LangChain example: tools by request and by text, bounds, and the command as a user runs it."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from aiohttp import web
from fake_openai import FakeOpenAI, Reply, tool_call
from hotpotqa import Question
from langchain_agent import Result, parse_arguments, run, summary
from langchain_model import chat_model

SUM = Question("What is 17 * 23 + 4?", "395")
GARBAGE: list[Reply] = [
    None,
    "",
    "lorem ipsum " * 20_000,
    "🦜" * 500 + "\x1b[2J \x00",
    "Action: Fly[moon]",
    "Action: Finish[]",
]


async def answer(fake: FakeOpenAI, *options: str) -> Result:
    """One program against the fake server, without retries."""
    async with chat_model(fake) as model:
        return await run(model, SUM, parse_arguments(options)[0])


async def test_tools_are_offered_called_and_answered() -> None:
    """What the tool returns reaches the model, whose answer is scored; each call has the one before as its parent."""

    def rule(messages: list[dict[str, str]]) -> Reply:
        last = messages[-1]
        return (
            f"It is {last['content']}." if last["role"] == "tool" else tool_call("Calculate", expression="17 * 23 + 4")
        )

    async with FakeOpenAI(rule) as fake:
        result = await answer(fake)
    assert (result.answer, result.right) == ("It is 395.", True)
    assert (result.calls, result.tool_calls) == (2, 1)
    offered = [offer["function"]["name"] for offer in fake.bodies[0]["tools"]]
    assert offered == ["Doc", "Signature", "Calculate"]
    assert fake.parents == {"0.0": (), "0.1": ("0.0",)}
    assert fake.programs == [result.bill["program"]] * 2


async def test_actions_in_text_are_tool_calls() -> None:
    """No tool is in the requests, the prompt has them, and observations come from the user."""

    def rule(messages: list[dict[str, str]]) -> Reply:
        last = messages[-1]["content"]
        if last.startswith("Observation: "):
            return f"Thought: done.\nAction: Finish[{last.removeprefix('Observation: ')}]"
        return "Thought: I calculate.\nAction: Calculate[17 * 23 + 4]\nObservation: 7"

    async with FakeOpenAI(rule) as fake:
        result = await answer(fake, "--actions-in-text")
    assert (result.answer, result.right, result.calls, result.tool_calls) == ("395", True, 2, 1)
    assert not any("tools" in body for body in fake.bodies)
    assert "Calculate[expression] does arithmetic." in fake.bodies[0]["messages"][0]["content"]
    roles = [message["role"] for message in fake.bodies[-1]["messages"]]
    assert roles == ["system"] + ["user", "assistant"] * (len(roles) // 2 - 1) + ["user"]
    assert fake.parents == {"0.0": (), "0.1": ("0.0",)}


@pytest.mark.parametrize("options", [(), ("--actions-in-text",)])
async def test_a_model_that_never_answers_is_stopped(options: tuple[str, ...]) -> None:
    """The last call has no tools and is told to answer; tools that it asks for all the same are not run."""

    def rule(_: list[dict[str, str]]) -> Reply:
        return "Action: Calculate[1 + 1]" if options else tool_call("Calculate", expression="1 + 1")

    async with FakeOpenAI(rule) as fake:
        result = await answer(fake, "--max-steps", "2", *options)
    assert (result.calls, result.tool_calls, result.right, result.error) == (3, 2, False, None)
    assert "tools" not in fake.bodies[-1]
    assert fake.bodies[-1]["messages"][-1]["content"].startswith("No steps are left.")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("Fly", {"to": "moon"}), ("Calculate", {"formula": "1 + 1"}), ("Calculate", {"expression": "1 +"})],
)
async def test_wrong_tool_calls_are_answered_with_what_is_wrong(name: str, arguments: dict[str, str]) -> None:
    """Unknown tools, wrong arguments, and text that the tool cannot use are no reason to stop."""
    async with FakeOpenAI(lambda m: "395" if m[-1]["role"] == "tool" else tool_call(name, **arguments)) as fake:
        result = await answer(fake)
    assert (result.error, result.right, result.calls) == (None, True, 2)
    assert fake.bodies[-1]["messages"][-1]["content"]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("options", [(), ("--actions-in-text",)])
async def test_garbage_is_survived(garbage: Reply, options: tuple[str, ...]) -> None:
    """Any content is an answer, however wrong, after one call."""
    async with FakeOpenAI(lambda _: garbage) as fake:
        result = await answer(fake, *options)
    assert (result.error, result.right, result.calls) == (None, False, 1)
    assert json.dumps(asdict(result))
    assert "\x1b" not in str(result)


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (404, '{"error": {"message": "no such model"}}', "answered 404: "),
        (200, "<html>busy</html>", "cannot be read"),
        (200, '{"choices": null}', "cannot be read"),
        (200, '{"choices": []}', "cannot be read"),
        (200, '{"choices": [', "cannot be read"),
        (200, "[1]", "cannot be read"),
    ],
)
async def test_a_bad_answer_ends_the_program_with_a_sentence(status: int, body: str, sentence: str) -> None:
    """Refusals and bodies that are no chat completion are reported, never raised."""
    async with FakeOpenAI(lambda _: web.Response(text=body, status=status, content_type="application/json")) as fake:
        result = await answer(fake)
    assert result.error is not None
    assert sentence in result.error
    assert "\n" not in result.error
    assert (result.calls, result.right) == (0, False)


def test_the_summary_says_what_to_try() -> None:
    """A run without any tool call hints at the option for it."""
    one = Result("langchain", question="a", expected="1", right=True)
    assert summary([one]) == "1 programs: 1 of 1 answers right, 0 tool calls (try --actions-in-text), 0 failed."
    used = Result("langchain", question="b", expected=None, tool_calls=2, error="gone")
    assert summary([one, used]) == "2 programs: 1 of 1 answers right, 2 tool calls, 1 failed."
