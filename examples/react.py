#!/usr/bin/env python3
"""ReAct: the model thinks, acts with a tool, observes what came back, and so on until it answers.

    python examples/react.py                                        # built-in questions about Python and arithmetic
    python examples/react.py --question "What is 7 * 191 - 14?"
    python examples/react.py --data questions.jsonl --concurrency 4   # questions with paragraphs to search

Works with any OpenAI-compatible server (--base-url). On an Autellix server each question is one program: the lines
marked `# autellix` are all it takes.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from harness import (
    CallFailed,
    Chat,
    add_common_options,
    bounded,
    open_client,
    progress,
    report,
    run_main,
    run_side_by_side,
)
from hotpotqa import Library, Question, load_questions, score
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam as Message
from tools import PYTHON_TOOLS, Toolbox, shorten

import autellix_sdk as autellix  # autellix

QUESTIONS = (
    Question("What is 17 * 23 + 4?", "395"),
    Question("What is the default value of the parameter start of sum?", "0"),
    Question("How many seconds are there in 3 days?", "259200"),
    Question("What is the default value of the parameter indent of json.dumps?", "None"),
    Question("What is 2 to the power of 20?", "1048576"),
    Question("Which exception does list.index raise if the value is not present?", "ValueError"),
    Question("What is the default value of the parameter maxsplit of str.split?", "-1"),
    Question("What is (144 - 12) / 6?", "22"),
)

PYTHON_PROMPT = """\
Answer the question step by step. Reply with one Thought and one Action. The actions are:
Doc[name] shows Python's documentation of a name.
Signature[name] shows the parameters of a function and their defaults.
Calculate[expression] does arithmetic.
Finish[answer] gives the short answer."""
PYTHON_EXAMPLE = (
    "Question: What is the default value of the parameter key of sorted?",
    "Thought: I look at the parameters of sorted.\nAction: Signature[sorted]",
    "Observation: sorted(iterable, /, *, key=None, reverse=False)",
    "Thought: The default of key is None.\nAction: Finish[None]",
    "Question: Which exception does dict.popitem raise if the dict is empty?",
    "Thought: I read about dict.popitem.\nAction: Doc[dict.popitem]",
    "Observation: Remove and return a (key, value) pair. Raises KeyError if the dict is empty.",
    "Thought: It raises KeyError.\nAction: Finish[KeyError]",
    "Question: What is 12 * 12 - 4?",
    "Thought: I calculate 12 * 12 - 4.\nAction: Calculate[12 * 12 - 4]",
    "Observation: 140",
    "Thought: The result is 140.\nAction: Finish[140]",
)
SEARCH_PROMPT = """\
Answer the question step by step. Reply with one Thought and one Action. The actions are:
Search[title or words] shows the page that fits best.
Lookup[word] shows the next sentence with the word on that page.
Finish[answer] gives the short answer."""
SEARCH_EXAMPLE = (
    "Question: What is the capital of the country in which Mount Fuji stands?",
    "Thought: I search for Mount Fuji.\nAction: Search[Mount Fuji]",
    "Observation: Mount Fuji: Mount Fuji is the highest mountain of Japan.",
    "Thought: The country is Japan. I search for its capital.\nAction: Search[Japan capital]",
    "Observation: Japan: Japan is an island country in Asia. Its capital is Tokyo.",
    "Thought: The capital is Tokyo.\nAction: Finish[Tokyo]",
    "Question: Was Ada Lovelace born before Alan Turing?",
    "Thought: I search for Ada Lovelace.\nAction: Search[Ada Lovelace]",
    "Observation: Ada Lovelace: Ada Lovelace (born 1815) wrote about the Analytical Engine.",
    "Thought: I search for Alan Turing.\nAction: Search[Alan Turing]",
    "Observation: Alan Turing: Alan Turing (born 1912) was a mathematician.",
    "Thought: 1815 is before 1912.\nAction: Finish[yes]",
)
FINISH = "Finish"


class Action(NamedTuple):
    """What the model wants done, and its reply up to there (models go on and invent the observation)."""

    name: str
    argument: str
    text: str


def parse_action(reply: str, names: Iterable[str]) -> Action | None:
    """Find the first action in a reply; `None` when there is none.

    Takes ``Name[argument]``, ``name(argument)`` and ``Name: argument``, best after ``Action:`` but also anywhere else,
    and brackets cut short by the token limit. ``Answer: text`` counts as Finish.
    """
    known = {name.lower(): name for name in (*names, FINISH)} | {"answer": FINISH}
    name = rf"\b({'|'.join(known)})[^\S\n]*"
    label = re.search(r"\baction\b[^:\n]*:", reply, re.IGNORECASE)
    for pattern, begin in ((rf"{name}[\[(]", label.end() if label else 0), (rf"{name}[\[(]", 0), (f"{name}:", 0)):
        found = re.compile(pattern, re.IGNORECASE).search(reply, begin)
        if found:
            argument, end = _argument(reply, found.end(), bracketed=not pattern.endswith(":"))
            return Action(known[found[1].lower()], argument.strip(), reply[:end])
    return None


def _argument(reply: str, begin: int, bracketed: bool) -> tuple[str, int]:
    """Text from `begin` to the bracket that matches, else to the end of the line; and where the action ends."""
    line = reply[begin:].partition("\n")[0]
    depth = 1
    for place, char in enumerate(line if bracketed else ""):
        depth += (char in "[(") - (char in "])")
        if depth == 0:
            return line[:place], begin + place + 1
    return line, begin + len(line)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one program: actions before the answer is demanded, tokens per reply, sampling temperature."""

    max_steps: int = 5
    max_tokens: int = 56
    temperature: float = 0.0


DEFAULTS = Limits()


@dataclass(slots=True)
class Result:
    """What one program did. `exact` and `f1` are `None` when the answer is not known; `bill` is the server's."""

    question: str
    expected: str | None
    answer: str | None = None
    exact: bool | None = None
    f1: float | None = None
    steps: int = 0
    malformed: int = 0
    forced: bool = False
    calls: int = 0
    seconds: float = 0.0
    error: str | None = None
    bill: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON object for `--json`."""
        return {"agent": "react"} | asdict(self)

    def line(self) -> str:
        """One line for a person."""
        verdict = {True: "right", False: "wrong", None: "unchecked"}[self.exact]
        told = f"failed: {self.error}" if self.error else f"{self.answer or '(no answer)'} ({verdict})"
        how = f"{self.steps} steps, {self.malformed} malformed" + (", forced to answer" if self.forced else "")
        return f"{shorten(self.question, 90)} -> {shorten(told)}  [{how}, {self.seconds:.1f} s]"


async def run_program(client: AsyncOpenAI, model: str, question: Question, limits: Limits = DEFAULTS) -> Result:
    """Answer one question as one program. A call that fails ends it and is reported in the result.

    A question with paragraphs gets the search tools, one without them the Python tools.
    """
    result = Result(question.text, question.answer)
    chat = Chat(client, model, limits.temperature)
    began = time.monotonic()
    async with autellix.program("react") as program:  # autellix
        try:
            result.answer = await _think_and_act(chat, question, limits, result)
        except CallFailed as failure:
            result.error = str(failure)
    result.bill = program.bill().to_json()  # autellix
    result.calls, result.seconds = chat.calls, time.monotonic() - began
    if question.answer is not None:
        result.exact, result.f1 = score(result.answer or "", question.answer)
    return result


async def _think_and_act(chat: Chat, question: Question, limits: Limits, result: Result) -> str:
    tools = Library(question.paragraphs).tools() if question.paragraphs else PYTHON_TOOLS
    turns = _opening(question)
    for _ in range(limits.max_steps):
        reply = await chat.ask(_messages(turns), limits.max_tokens, stop="\nObservation")
        result.steps += 1
        action = parse_action(reply, tools)
        done = f"{action.name}[{shorten(action.argument, 60)}]" if action else "no action"
        progress(f"{shorten(question.text, 50)} | step {result.steps}: {done}")
        if action and action.name == FINISH and action.argument:
            return shorten(action.argument)
        if action is None or action.name == FINISH:
            result.malformed += 1
        observation = f"Observation: {observe(action, tools)}"
        if observation in turns:
            observation += f" You know this already. Try another action, or {FINISH}[answer]."
        turns += [action.text if action else shorten(reply) or "(nothing)", observation]
    result.forced = True
    turns[-1] += f"\nNo steps are left. Reply with Action: {FINISH}[answer]."
    reply = await chat.ask(_messages(turns), limits.max_tokens)
    action = parse_action(reply, (FINISH,))
    return shorten(action.argument if action else reply.partition("\n")[0].removeprefix("Thought:"))


def observe(action: Action | None, tools: Toolbox) -> str:
    """Run the action; for one that is missing or empty, say what is expected."""
    if action is None:
        names = ", ".join((*tools, FINISH))
        return f"No action found. Choose one of {names}, as in Action: {next(iter(tools))}[name]."
    if action.name == FINISH:
        return f"The answer is empty. Reply with Action: {FINISH}[answer]."
    return tools[action.name](action.argument)


def _opening(question: Question) -> list[str]:
    """The prompt and the example, then the question."""
    opening = (SEARCH_PROMPT, *SEARCH_EXAMPLE) if question.paragraphs else (PYTHON_PROMPT, *PYTHON_EXAMPLE)
    return [*opening, f"Question: {shorten(question.text, 400)}"]


def _messages(turns: Sequence[str]) -> list[Message]:
    """The prompt as the system's message, then user and assistant in turn."""
    system: Message = {"role": "system", "content": turns[0]}
    user: list[Message] = [{"role": "user", "content": turn} for turn in turns[1::2]]
    assistant: list[Message] = [{"role": "assistant", "content": turn} for turn in turns[2::2]]
    return [system, *(message for pair in zip_longest(user, assistant) for message in pair if message)]


def summary(results: Sequence[Result]) -> str:
    """What the programs achieved, in one sentence; a program that failed counts as wrong."""
    scored = [result for result in results if result.exact is not None]
    right = sum(result.exact is True for result in scored)
    mean_f1 = sum(result.f1 or 0.0 for result in scored) / max(1, len(scored))
    forced = sum(result.forced for result in results)
    failed = sum(result.error is not None for result in results)
    return (
        f"{len(results)} programs: {right} of {len(scored)} answers right (mean F1 {mean_f1:.2f}), "
        f"{forced} forced to answer, {failed} failed."
    )


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[Question]]:
    """Read the command line; bad usage exits with 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--question", action="append", help="ask this instead of the built-in questions (repeatable)")
    what.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="JSON lines with question, answer and paragraphs [{title, text}]; adds Search and Lookup tools",
    )
    parser.add_argument("--limit", type=bounded(int, 1, 100_000), help="ask only the first LIMIT questions")
    parser.add_argument(
        "--max-steps", type=bounded(int, 1, 50), default=5, help="actions before the answer is demanded (default: 5)"
    )
    parser.add_argument(
        "--max-tokens", type=bounded(int, 1, 4096), default=56, help="tokens per reply (default: %(default)s)"
    )
    add_common_options(parser, temperature=0.0)
    args = parser.parse_args(argv)
    if args.data is None:
        questions = [Question(text, None) for text in args.question] if args.question else list(QUESTIONS)
        return args, questions[: args.limit]
    try:
        return args, load_questions(args.data, args.limit)
    except (OSError, ValueError) as error:
        parser.error(str(error))


async def main() -> int:
    """Run the example; the exit code is 0 when the model answered, 1 when it could not be asked."""
    args, questions = parse_arguments()
    limits = Limits(args.max_steps, args.max_tokens, args.temperature)
    autellix.init(base_url=args.base_url)  # autellix
    async with open_client(args) as client:
        results = await run_side_by_side(
            questions,
            lambda question: run_program(client, args.model, question, limits),
            args.concurrency,
            args.json,
        )
    return report(results, summary(results), args.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
