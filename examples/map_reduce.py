#!/usr/bin/env python3
"""Map-reduce: a document is cut into pieces, each is summarised on its own, and the summaries are summarised together.

    python examples/map_reduce.py --concurrency 2             # built-in documents: chapters of Python's own manual
    python examples/map_reduce.py --file report.txt --piece-chars 2000
    python examples/map_reduce.py --file a.txt --file b.txt --parallel 4

The pieces are summarised side by side, and so are the groups of summaries (--fan-in) until one is left. Whatever the
model writes, the number of calls is fixed by the document: one for each piece, one for each group.

Works with any OpenAI-compatible server (--base-url). On an Autellix server each document is one program, whose calls
are as many threads as run side by side: the lines marked `# autellix` are all it takes.
"""

from __future__ import annotations

import asyncio
import math
import re
import sys
import textwrap
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from cli import (
    MAX_REPLY_CHARS,
    CallFailed,
    Outcome,
    count,
    dialogue,
    failures_in_a_sentence,
    finish,
    first_failure,
    options,
    printable,
    reply_of,
    side_by_side,
)
from openai import AsyncOpenAI
from tools import shorten

import autellix_sdk as autellix  # autellix


@dataclass(frozen=True, slots=True)
class Document:
    """What is to be summarised."""

    title: str
    text: str


async def summarise_all(documents: Iterable[Document], args: Namespace) -> list[Result]:
    """Summarise the documents, each as one program."""
    autellix.init(base_url=args.base_url)  # autellix
    async with AsyncOpenAI(base_url=args.base_url, api_key=args.api_key) as client:
        return await side_by_side(lambda document: summarise(client, document, args), documents, args)


async def summarise(client: AsyncOpenAI, document: Document, args: Namespace) -> Result:
    """Summarise one document as one program. A call that fails ends it and is reported in the result."""
    agent = Summariser(client, document, args)
    result = agent.result
    began = time.monotonic()
    async with autellix.program("map_reduce") as program:  # autellix
        try:
            await agent.run()
        except* CallFailed as failures:
            result.error = first_failure(failures)
    result.bill = program.bill().to_json()  # autellix
    result.seconds = time.monotonic() - began
    return result


class Summariser:
    """The summary of one document; `result` holds what is known so far, also when a call failed and ended the work."""

    def __init__(self, client: AsyncOpenAI, document: Document, args: Namespace) -> None:
        self._client = client
        self._args = args
        self._text = document.text
        self._places = asyncio.Semaphore(args.parallel)
        self.result = Result("map_reduce", title=document.title, words=len(document.text.split()))

    async def run(self) -> None:
        """Map, then reduce until one text is left."""
        pieces = split(self._text, self._args.piece_chars)
        self.result.pieces, self.result.left_out = len(pieces), max(0, len(pieces) - self._args.max_pieces)
        texts = await self._summaries(MAP, pieces[: self._args.max_pieces])
        while len(texts) > 1:
            texts = await self._summaries(REDUCE, grouped(texts, self._args.fan_in))
        self.result.summary = texts[0] if texts else ""
        self.result.grounded = share_of_words(self.result.summary, self._text)

    async def _summaries(self, prompt: str, texts: Sequence[str]) -> list[str]:
        """Summaries of the texts, asked for side by side; an empty one is counted and left out."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(prompt, text)) for text in texts]
        replies = [task.result() for task in tasks]
        self.result.empty += replies.count("")
        print(f"{shorten(self.result.title, 50)} | {len(texts)} texts, {self.result.calls} calls", file=sys.stderr)
        return [reply for reply in replies if reply]

    async def _ask(self, prompt: str, text: str) -> str:
        """The model's reply to a prompt and a text; possibly empty."""
        async with self._places:
            with failures_in_a_sentence(self._client):
                completion = await self._client.chat.completions.create(
                    model=self._args.model,
                    messages=dialogue(prompt, text),
                    temperature=self._args.temperature,
                    max_tokens=self._args.max_tokens,
                )
        reply = reply_of(completion)[:MAX_REPLY_CHARS]
        self.result.calls += 1
        return " ".join(printable(reply).split())


@dataclass(slots=True, kw_only=True)
class Result(Outcome):
    """What one program did: pieces of the document, those left out, empty replies, and the summary.

    `grounded` is the share of the summary's words, 0 to 1, that stand in the document; 0 without a summary.
    """

    title: str
    words: int
    pieces: int = 0
    left_out: int = 0
    empty: int = 0
    summary: str = ""
    grounded: float = 0.0

    def __str__(self) -> str:
        """One line for a person."""
        told = f"failed: {self.error}" if self.error else shorten(self.summary) or "(no summary)"
        how = f"{self.words} words in {self.pieces} pieces" + (f", {self.left_out} left out" if self.left_out else "")
        return (
            f"{shorten(self.title, 50)} -> {told}  [{how}, {self.calls} calls, {self.grounded:.0%} of the summary's "
            f"words are the document's, {self.seconds:.1f} s]"
        )


def split(text: str, most_chars: int) -> list[str]:
    """Cut a text into pieces of at most `most_chars`, if possible between paragraphs, else between words."""
    pieces: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        for part in textwrap.wrap(" ".join(paragraph.split()), most_chars, break_on_hyphens=False):
            if pieces and len(pieces[-1]) + len(part) < most_chars:
                pieces[-1] += f"\n{part}"
            else:
                pieces.append(part)
    return pieces


def grouped(texts: Sequence[str], fan_in: int) -> list[str]:
    """Join neighbours in as few groups of at most `fan_in` (2 or more) as there can be, about equally large."""
    size = math.ceil(len(texts) / math.ceil(len(texts) / fan_in))
    return ["\n".join(texts[begin : begin + size]) for begin in range(0, len(texts), size)]


def share_of_words(summary: str, text: str) -> float:
    """The share of the words of a summary, 0 to 1, that stand in the text; 0 for an empty one."""
    mine, known = re.findall(r"\w+", summary.lower()), set(re.findall(r"\w+", text.lower()))
    return sum(word in known for word in mine) / max(1, len(mine))


def summary(results: Sequence[Result]) -> str:
    """What the programs achieved, in one sentence."""
    done = [result for result in results if result.summary]
    before, after = sum(result.words for result in done), sum(len(result.summary.split()) for result in done)
    return (
        f"{len(results)} programs: {before} words in {len(done)} documents became {after}, "
        f"{sum(result.empty for result in results)} replies were empty, "
        f"{sum(result.error is not None for result in results)} failed."
    )


MAP = "Provide a concise summary of the text in one sentence."
REDUCE = "Provide a concise summary of these notes on one document in one or two sentences."
"""Without examples: a small model would tell of those instead of the text."""

TITLES = ("with", "exceptions", "objects", "execmodel", "import", "numeric-types")
"""Chapters of the language reference that every Python brings along as help topics."""


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[Namespace, Sequence[Document]]:
    """Read the command line and the documents; bad usage exits with 2."""
    parser = options(__doc__, "documents", max_tokens=64)
    add = parser.add_argument
    add("--file", type=Path, action="append", help="summarise this text instead (repeatable)")
    add("--piece-chars", type=count, default=1200, help="characters of a piece at most (default: %(default)s)")
    add("--max-pieces", type=count, default=12, help="leave out what is beyond (default: %(default)s)")
    add("--fan-in", type=int, choices=range(2, 65), default=4, metavar="N", help="2 to 64 summaries to sum up at once")
    add("--parallel", type=count, default=8, help="calls of a program in flight at once (default: %(default)s)")
    args = parser.parse_args(argv)
    documents = [Document(title, topics[title]) for title in TITLES if title in topics]
    if args.file:
        try:
            documents = [Document(path.name, path.read_text(encoding="utf-8")) for path in args.file]
        except (OSError, ValueError) as error:
            parser.error(str(error))
        if empty := [document.title for document in documents if not document.text.strip()]:
            parser.error(f"{empty[0]} holds no text")
    return args, documents[: args.limit]


if __name__ == "__main__":
    args, documents = parse_arguments()
    sys.exit(finish(summarise_all(documents, args), summary, args))
