#!/usr/bin/env python3
"""ReAct: the model thinks, acts with a tool, observes what came back, and so on until it answers.

    python examples/react.py                                        # built-in questions about Python and arithmetic
    python examples/react.py --question "What is 7 * 191 - 14?"
    python examples/react.py --data questions.jsonl --concurrency 4   # questions with paragraphs to search

Works with any OpenAI-compatible server (--base-url). On an Autellix server each question is one program: the lines
marked `# autellix` are all it takes.
"""

from __future__ import annotations

import re
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cli import (
    MAX_REPLY_CHARS,
    CallFailed,
    Outcome,
    count,
    dialogue,
    failures_in_a_sentence,
    finish,
    options,
    printable,
    reply_of,
    side_by_side,
)
from hotpotqa import Library, Question, load_questions, score
from openai import AsyncOpenAI
from tools import PYTHON_TOOLS, Toolbox, shorten

import autellix_sdk as autellix  # autellix

FINISH = "Finish"


async def answer_all(questions: Iterable[Question], args: Namespace) -> list[Result]:
    """Answer the questions, each as one program."""
    autellix.init(base_url=args.base_url)  # autellix
    async with AsyncOpenAI(base_url=args.base_url, api_key=args.api_key) as client:
        return await side_by_side(Agent(client, args).run, questions, args)


@dataclass(frozen=True, slots=True)
class Agent:
    """A ReAct agent: the server of its model, and the options of the command line."""

    client: AsyncOpenAI
    args: Namespace

    async def run(self, question: Question) -> Result:
        """Answer a question as one program. A call that fails ends it and is reported in the result."""
        result = Result("react", question=question.text, expected=question.answer)
        began = time.monotonic()
        async with autellix.program("react") as program:  # autellix
            try:
                result.answer = await self._think_and_act(question, result)
            except CallFailed as failure:
                result.error = str(failure)
        result.bill = program.bill().to_json()  # autellix
        result.seconds = time.monotonic() - began
        if question.answer is not None:
            result.exact, result.f1 = score(result.answer, question.answer)
        return result

    async def _ask(self, turns: Sequence[str], result: Result, stop: str | None = None) -> str:
        """The model's reply to the prompt, then user and assistant in turn; printable, and possibly empty."""
        with failures_in_a_sentence(self.client):
            completion = await self.client.chat.completions.create(
                model=self.args.model,
                messages=dialogue(*turns),
                temperature=self.args.temperature,
                max_tokens=self.args.max_tokens,
                stop=stop,
            )
        reply = reply_of(completion)[:MAX_REPLY_CHARS]
        result.calls += 1
        return printable(reply)

    async def _think_and_act(self, question: Question, result: Result) -> str:
        """The loop of ReAct; a question with paragraphs gets the search tools, one without them the Python tools."""
        pages = Library(question.paragraphs)
        tools = {"Search": pages.search, "Lookup": pages.lookup} if question.paragraphs else PYTHON_TOOLS
        opening = (SEARCH_PROMPT, *SEARCH_EXAMPLE) if question.paragraphs else (PYTHON_PROMPT, *PYTHON_EXAMPLE)
        turns = [*opening, f"Question: {shorten(question.text, 400)}"]
        for _ in range(self.args.max_steps):
            reply = await self._ask(turns, result, stop="\nObservation")
            result.steps += 1
            action = parse_action(reply, tools)
            done = f"{action.name}[{shorten(action.argument, 60)}]" if action else "no action"
            print(f"{shorten(question.text, 50)} | step {result.steps}: {done}", file=sys.stderr)
            if action and action.name == FINISH and action.argument:
                return shorten(action.argument)
            observation = f"Observation: {observe(action, tools)}"
            if action is None or action.name == FINISH:
                result.malformed += 1
            if observation in turns:
                observation += f" You know this already. Try another action, or {FINISH}[answer]."
            turns += [action.text if action else shorten(reply) or "(nothing)", observation]
        result.forced = True
        turns[-1] += f"\nNo steps are left. Reply with Action: {FINISH}[answer]."
        reply = await self._ask(turns, result)
        action = parse_action(reply, (FINISH,))
        return shorten(action.argument if action else reply.partition("\n")[0].removeprefix("Thought:"))


@dataclass(slots=True, kw_only=True)
class Result(Outcome):
    """What one program did; `exact` and `f1` are `None` when the answer is not known."""

    question: str
    expected: str | None
    answer: str = ""
    exact: bool | None = None
    f1: float | None = None
    steps: int = 0
    malformed: int = 0
    forced: bool = False

    def __str__(self) -> str:
        """One line for a person."""
        verdict = {True: "right", False: "wrong", None: "unchecked"}[self.exact]
        told = f"failed: {self.error}" if self.error else f"{self.answer or '(no answer)'} ({verdict})"
        how = f"{self.steps} steps, {self.malformed} malformed" + (", forced to answer" if self.forced else "")
        return f"{shorten(self.question, 90)} -> {shorten(told)}  [{how}, {self.seconds:.1f} s]"


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


def observe(action: Action | None, tools: Toolbox) -> str:
    """Run the action; for one that is missing or empty, say what is expected."""
    if action is None:
        names = ", ".join((*tools, FINISH))
        return f"No action found. Choose one of {names}, as in Action: {next(iter(tools))}[name]."
    if action.name == FINISH:
        return f"The answer is empty. Reply with Action: {FINISH}[answer]."
    return tools[action.name](action.argument)


def summary(results: Sequence[Result]) -> str:
    """What the programs achieved, in one sentence; a program that failed counts as wrong."""
    scored = [result for result in results if result.exact is not None]
    mean_f1 = sum(result.f1 or 0.0 for result in scored) / max(1, len(scored))
    return (
        f"{len(results)} programs: {sum(result.exact is True for result in scored)} of {len(scored)} answers right "
        f"(mean F1 {mean_f1:.2f}), {sum(result.forced for result in results)} forced to answer, "
        f"{sum(result.error is not None for result in results)} failed."
    )


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


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[Namespace, Sequence[Question]]:
    """Read the command line and the questions; bad usage exits with 2."""
    parser = options(__doc__, "questions", max_tokens=56)
    steps = "actions before the answer is demanded (default: %(default)s)"
    parser.add_argument("--max-steps", type=count, default=5, help=steps)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--question", action="append", help="ask this instead of the built-in questions (repeatable)")
    what.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="JSON lines with question, answer and paragraphs [{title, text}]; adds Search and Lookup tools",
    )
    args = parser.parse_args(argv)
    questions = [Question(text, None) for text in args.question or ()] or QUESTIONS
    if args.data is not None:
        try:
            questions = load_questions(args.data, args.limit)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    return args, questions[: args.limit]


if __name__ == "__main__":
    args, questions = parse_arguments()
    sys.exit(finish(answer_all(questions, args), summary, args))
