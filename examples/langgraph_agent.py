#!/usr/bin/env python3
"""A LangGraph agent that looks things up in Python's documentation, several at once, before it answers.

    python examples/langgraph_agent.py --concurrency 2        # built-in questions
    python examples/langgraph_agent.py --question "How do list.sort and sorted differ?" --width 3

The graph: `plan` names what to look up, one `look_up` for each name runs in parallel, and the plan is made again with
what was found, until nothing is missing or --rounds are spent; then `write` answers from the notes.

    start -> plan -> look_up x N -> plan -> ... -> write -> end

A model that names nothing that exists is helped out with the names in the question, and the result says so.

Works with any OpenAI-compatible server (--base-url). On an Autellix server each question is one program, whose calls
are as many threads as branches run in parallel: the lines marked `# autellix` are all it takes.
"""

from __future__ import annotations

import keyword
import operator
import re
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

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
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from tools import document, is_documented, shorten

import autellix_sdk as autellix  # autellix


class State(TypedDict, total=False):
    """What the nodes share; `looked_up` and `notes` grow by what each branch adds."""

    rounds: int
    wanted: list[str]
    looked_up: Annotated[list[str], operator.add]
    notes: Annotated[list[str], operator.add]
    answer: str


async def answer_all(questions: Iterable[str], args: Namespace) -> list[Result]:
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


async def run(model: ChatOpenAI, question: str, args: Namespace) -> Result:
    """Answer a question as one program. A call that fails ends it and is reported in the result."""
    research = Research(model, question, args)
    result = research.result
    began = time.monotonic()
    async with autellix.program("langgraph") as program:  # autellix
        try:
            state = await research.graph().ainvoke({}, {"recursion_limit": 2 * args.rounds + 5})
            result.answer = shorten(state["answer"])
        except CallFailed as failure:
            result.error = str(failure)
    result.bill = program.bill().to_json()  # autellix
    result.seconds = time.monotonic() - began
    return result


class Research:
    """The nodes of the graph for one question; `result` holds what is known so far."""

    def __init__(self, model: ChatOpenAI, question: str, args: Namespace) -> None:
        self._model = model
        self._args = args
        self.result = Result("langgraph", question=question)

    def graph(self) -> Any:
        """The graph, ready to run."""
        graph = StateGraph(State)
        graph.add_node("plan", self._plan)
        graph.add_node("look_up", self._look_up)
        graph.add_node("write", self._write)
        graph.add_edge(START, "plan")
        graph.add_conditional_edges("plan", self._branches, ["look_up", "write"])
        graph.add_edge("look_up", "plan")
        graph.add_edge("write", END)
        return graph.compile()

    async def _plan(self, state: State) -> State:
        """Name what to look up next; nothing once the rounds are spent."""
        rounds = state.get("rounds", 0)
        if rounds == self._args.rounds:
            return {"wanted": []}
        known = state.get("looked_up", [])
        reply = await self._ask(*PLAN, f"Question: {self.result.question}\nKnown: {', '.join(known) or 'nothing'}")
        wanted = [name for name in names_in(reply) if name not in known][: self._args.width]
        self.result.named += len(wanted)
        if not (wanted or known):
            wanted = names_in(self.result.question)[: self._args.width]
            self.result.helped = bool(wanted)
        print(f"{shorten(self.result.question, 50)} | look up: {', '.join(wanted) or 'nothing'}", file=sys.stderr)
        return {"rounds": rounds + 1, "wanted": wanted}

    def _branches(self, state: State) -> list[Send] | str:
        """A branch for each name; without any, on to the answer."""
        return [Send("look_up", {"wanted": [name]}) for name in state["wanted"]] or "write"

    async def _look_up(self, state: State) -> State:
        """Look up one name, and note what of it matters."""
        (name,) = state["wanted"]
        reply = await self._ask(*NOTE, f"Question: {self.result.question}\n{name}: {document(name)}")
        self.result.looked_up.append(name)
        return {"looked_up": [name], "notes": [f"{name}: {shorten(reply) or document(name)}"]}

    async def _write(self, state: State) -> State:
        """Answer from the notes."""
        notes = "\n".join(sorted(state.get("notes", [])))
        return {"answer": await self._ask(*WRITE, f"Question: {self.result.question}\n{notes or 'No notes.'}")}

    async def _ask(self, system: str, *turns: str) -> str:
        """The model's reply to user and assistant in turn; printable, and possibly empty."""
        roles = ("user", "assistant")
        messages = [("system", system), *((roles[place % 2], turn) for place, turn in enumerate(turns))]
        with failures_in_a_sentence(self._model.root_async_client):
            reply = await self._model.ainvoke(messages)
        self.result.calls += 1
        return printable(str(reply.text)[:MAX_REPLY_CHARS]).strip()


@dataclass(slots=True, kw_only=True)
class Result(Outcome):
    """What one program did: what it looked up, how much of that the model named itself, and the answer."""

    question: str
    answer: str = ""
    looked_up: list[str] = field(default_factory=list)
    named: int = 0
    helped: bool = False

    def __str__(self) -> str:
        """One line for a person."""
        told = f"failed: {self.error}" if self.error else self.answer or "(no answer)"
        source = ", named by the question" if self.helped else ""
        how = f"looked up {', '.join(self.looked_up) or 'nothing'}{source}, {self.calls} calls, {self.seconds:.1f} s"
        return f"{shorten(self.question, 90)} -> {told}  [{how}]"


def names_in(text: str) -> list[str]:
    """Names in a text that Python documents, each once; keywords are none, but `set` may be meant as a verb."""
    dotted = re.findall(r"\b[A-Za-z]\w*(?:\.[A-Za-z]\w*)*", text)
    return [name for name in dict.fromkeys(dotted) if is_documented(name) and not keyword.iskeyword(name)]


def summary(results: Sequence[Result]) -> str:
    """What the programs achieved, in one sentence."""
    return (
        f"{len(results)} programs: {sum(bool(result.answer) for result in results)} answered, "
        f"{sum(len(result.looked_up) for result in results)} names looked up, "
        f"{sum(result.named for result in results)} of them the model's own, "
        f"{sum(result.error is not None for result in results)} failed."
    )


PLAN = (
    "Which names of Python have to be looked up for the question? Reply with those not known yet, or with: nothing.",
    *("Question: How do min and random.choice differ?\nKnown: nothing", "min, random.choice"),
    *("Question: What does str.strip do?\nKnown: str.strip", "nothing"),
)
NOTE = (
    "Say in one short sentence what the documentation means for the question.",
    "Question: How do min and max differ?\nmin: With a single iterable argument, return its smallest item.",
    "min gives the smallest item.",
)
WRITE = (
    "Answer the question in one or two sentences, from the notes alone.",
    "Question: How do min and max differ?\nmax: max gives the largest item.\nmin: min gives the smallest item.",
    "min gives the smallest item of an iterable, max the largest.",
)

QUESTIONS = (
    "What is the difference between list.append and list.extend?",
    "How do str.find and str.index differ when nothing is found?",
    "When is itertools.chain better than adding lists, and what does sum do with lists?",
    "What do dict.get, dict.pop and dict.setdefault return for a missing key?",
)


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[Namespace, Sequence[str]]:
    """Read the command line and the questions; bad usage exits with 2."""
    parser = options(__doc__, "questions", max_tokens=64)
    add = parser.add_argument
    add("--question", action="append", help="ask this instead of the built-in questions (repeatable)")
    add("--rounds", type=count, default=2, help="plans made at most (default: %(default)s)")
    add("--width", type=count, default=3, help="names looked up at once (default: %(default)s)")
    args = parser.parse_args(argv)
    return args, (args.question or QUESTIONS)[: args.limit]


if __name__ == "__main__":
    args, questions = parse_arguments()
    sys.exit(finish(answer_all(questions, args), summary, args))
