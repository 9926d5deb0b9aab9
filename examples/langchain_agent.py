#!/usr/bin/env python3
"""A LangChain agent with tools: the questions and tools of react.py, in the loop of LangChain.

    python examples/langchain_agent.py                        # for models and servers that know tool calls
    python examples/langchain_agent.py --actions-in-text      # for all others, such as the bundled model
    python examples/langchain_agent.py --question "What is 7 * 191 - 14?"

The tools are offered with each call, the model asks for some, LangChain runs them, and so on until it answers. Small
models do not ask, and many servers pass on what they ask as plain text: --actions-in-text describes the tools in the
prompt and reads the actions out of the text, as react.py does. After --max-steps calls the tools are taken away.

Works with any OpenAI-compatible server (--base-url). On an Autellix server each question is one program: the lines
marked `# autellix` are all it takes.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tools
from cli import (
    MAX_REPLY_CHARS,
    CallFailed,
    Outcome,
    count,
    failures_in_a_sentence,
    finish,
    options,
    printable,
    side_by_side,
)
from hotpotqa import Question, mentions
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from react import FINISH, PYTHON_EXAMPLE, PYTHON_PROMPT, QUESTIONS, parse_action

import autellix_sdk as autellix  # autellix

SYSTEM = "Answer the question briefly. Use the tools rather than your memory."
ANSWER_NOW = "No steps are left. Answer now."
FINISH_NOW = f"No steps are left. Reply with Action: {FINISH}[answer]."


@tool("Doc")
def document(name: str) -> str:
    """Show Python's documentation of a name, such as str.split."""
    return tools.document(name)


@tool("Signature")
def signature(name: str) -> str:
    """Show the parameters of a Python function and their defaults."""
    return tools.signature(name)


@tool("Calculate")
def calculate(expression: str) -> str:
    """Do arithmetic, such as 17 * (3 + 4)."""
    return tools.calculate(expression)


TOOLS = {each.name: each for each in (document, signature, calculate)}


async def answer_all(questions: Iterable[Question], args: Namespace) -> list[Result]:
    """Answer the questions, each as one program."""
    autellix.init(base_url=args.base_url)  # autellix
    model = ChatOpenAI(
        base_url=args.base_url,
        api_key=args.api_key,
        model=args.model,
        temperature=args.temperature,
        max_completion_tokens=args.max_tokens,
    )
    return await side_by_side(lambda question: run(model, question, args), questions, args)


async def run(model: ChatOpenAI, question: Question, args: Namespace) -> Result:
    """Answer a question as one program. A call that fails ends it and is reported in the result."""
    result = Result("langchain", question=question.text, expected=question.answer)
    agent = create_agent(model, list(TOOLS.values()), system_prompt=SYSTEM, middleware=[Steps(model, result, args)])
    began = time.monotonic()
    async with autellix.program("langchain") as program:  # autellix
        try:
            state = await agent.ainvoke({"messages": [HumanMessage(f"Question: {question.text}")]})
            result.answer = tools.shorten(state["messages"][-1].text)
        except CallFailed as failure:
            result.error = str(failure)
    result.bill = program.bill().to_json()  # autellix
    result.seconds = time.monotonic() - began
    if question.answer is not None:
        result.right = mentions(result.answer, question.answer)
    return result


class Steps(AgentMiddleware):
    """Stands around every call of one run: counts, bounds, and translates tools to text where asked to."""

    def __init__(self, model: ChatOpenAI, result: Result, args: Namespace) -> None:
        super().__init__()
        self._model = model
        self._result = result
        self._args = args

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> AIMessage:
        """Make one call; the last one has no tools, and asks for none whatever the model says."""
        is_last = self._result.calls >= self._args.max_steps
        if is_last:
            demand = HumanMessage(FINISH_NOW if self._args.actions_in_text else ANSWER_NOW)
            request = request.override(tools=[], messages=[*request.messages, demand])
        if self._args.actions_in_text:
            request = in_text(request)
        with failures_in_a_sentence(self._model.root_async_client):
            response = await handler(request)
        self._result.calls += 1
        reply = response.result[-1]
        text = printable(str(reply.text)[:MAX_REPLY_CHARS])
        calls = reply.tool_calls if isinstance(reply, AIMessage) else []
        if self._args.actions_in_text:
            text, calls = read_action(text, call_id=f"call_{self._result.calls}")
        if is_last:
            calls = []
        self._result.tool_calls += len(calls)
        done = ", ".join(f"{call['name']}{list(call['args'].values())}" for call in calls) or "answer"
        print(f"{tools.shorten(self._result.question, 50)} | call {self._result.calls}: {done}", file=sys.stderr)
        return AIMessage(text, tool_calls=calls)


def in_text(request: ModelRequest) -> ModelRequest:
    """The request as react.py would make it: tools in the prompt, with examples, and observations said by the user."""
    example: list[AnyMessage] = [
        AIMessage(turn) if place % 2 else HumanMessage(turn) for place, turn in enumerate(PYTHON_EXAMPLE)
    ]
    return request.override(
        tools=[],
        system_message=SystemMessage(PYTHON_PROMPT),
        messages=[*example, *(without_tools(message) for message in request.messages)],
        model_settings={"stop": ["\nObservation"]},
    )


def without_tools(message: AnyMessage) -> AnyMessage:
    """A message for a server that knows no tools: what one returned is said by the user, calls stay in the text."""
    if isinstance(message, ToolMessage):
        return HumanMessage(f"Observation: {message.text}")
    return AIMessage(message.text) if isinstance(message, AIMessage) else message


def read_action(text: str, call_id: str) -> tuple[str, list[Any]]:
    """What the model says and the tool that it asks for, if any, from a reply in text."""
    action = parse_action(text, TOOLS)
    if action is None:
        return text, []
    if action.name == FINISH:
        return action.argument, []
    parameter = next(iter(TOOLS[action.name].args))
    return action.text, [{"name": action.name, "args": {parameter: action.argument}, "id": call_id}]


@dataclass(slots=True, kw_only=True)
class Result(Outcome):
    """What one program did; `right` is `None` when the answer is not known."""

    question: str
    expected: str | None
    answer: str = ""
    right: bool | None = None
    tool_calls: int = 0

    def __str__(self) -> str:
        """One line for a person."""
        verdict = {True: "right", False: "wrong", None: "unchecked"}[self.right]
        told = f"failed: {self.error}" if self.error else f"{self.answer or '(no answer)'} ({verdict})"
        how = f"{self.calls} calls, {self.tool_calls} of a tool, {self.seconds:.1f} s"
        return f"{tools.shorten(self.question, 90)} -> {told}  [{how}]"


def summary(results: Sequence[Result]) -> str:
    """What the programs achieved, in one sentence; a program that failed counts as wrong."""
    scored = [result for result in results if result.right is not None]
    used = sum(result.tool_calls for result in results)
    return (
        f"{len(results)} programs: {sum(result.right is True for result in scored)} of {len(scored)} answers right, "
        f"{used} tool calls{'' if used else ' (try --actions-in-text)'}, "
        f"{sum(result.error is not None for result in results)} failed."
    )


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[Namespace, Sequence[Question]]:
    """Read the command line and the questions; bad usage exits with 2."""
    parser = options(__doc__, "questions", max_tokens=128)
    add = parser.add_argument
    add("--question", action="append", help="ask this instead of the built-in questions (repeatable)")
    add("--max-steps", type=count, default=5, help="calls before the answer is demanded (default: %(default)s)")
    add("--actions-in-text", action="store_true", help="for models and servers without tool calls")
    args = parser.parse_args(argv)
    questions = [Question(text, None) for text in args.question or ()] or QUESTIONS
    return args, questions[: args.limit]


if __name__ == "__main__":
    args, questions = parse_arguments()
    sys.exit(finish(answer_all(questions, args), summary, args))
