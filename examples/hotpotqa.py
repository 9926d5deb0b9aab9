"""HotpotQA questions: reading a question file, searching a question's paragraphs, scoring answers.

A question file has one JSON object a line with `question`, `answer` and `paragraphs`, a list of `{"title", "text"}`.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tools import shorten


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One paragraph of an encyclopedia."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer if known, and what the search tools see: no paragraphs, no search tools."""

    text: str
    answer: str | None
    paragraphs: tuple[Paragraph, ...] = ()


def load_questions(path: Path, limit: int | None = None) -> list[Question]:
    """Read the first `limit` questions of a file (`None`: all); blank lines are skipped.

    Raises:
        ValueError: a line is not a question, or there is none; the message names the line.
        OSError: the file cannot be read.
    """
    with path.open(encoding="utf-8") as lines:
        numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        questions = [_question(line, f"{path}, line {number}") for number, line in islice(numbered, limit)]
    if not questions:
        raise ValueError(f"{path} holds no question")
    return questions


def _question(line: str, where: str) -> Question:
    try:
        record: dict[str, Any] = json.loads(line)
        pages = tuple(Paragraph(str(page["title"]), str(page["text"])) for page in record["paragraphs"])
        return Question(str(record["question"]), str(record["answer"]), pages)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is not a question with answer and paragraphs: {error!r}") from error


class Library:
    """The Search and Lookup tools of ReAct over one question's paragraphs; Lookup works on the page last found."""

    def __init__(self, paragraphs: Sequence[Paragraph]) -> None:
        self._paragraphs = paragraphs
        self._page: Paragraph | None = None
        self._last_lookup = ("", 0)

    def search(self, query: str) -> str:
        """Tool ``Search[title or words]``: the page of that title, else the one that shares most with the query."""
        wanted = set(normalise(query).split())
        best = max(self._paragraphs, key=lambda page: _overlap(wanted, page), default=None)
        if best is None or _overlap(wanted, best) == (0, 0, 0):
            titles = "; ".join(page.title for page in self._paragraphs)
            return shorten(f"Nothing found. Pages: {titles}")
        self._page, self._last_lookup = best, ("", 0)
        return shorten(f"{best.title}: {best.text}")

    def lookup(self, word: str) -> str:
        """Tool ``Lookup[word]``: the next sentence with `word` on the page; the same word again goes on."""
        if self._page is None:
            return "Search for a page first, such as Search[Mount Fuji]."
        word = word.strip().casefold()
        sentences = [s for s in re.split(r"(?<=[.!?])\s+", self._page.text) if word and word in s.casefold()]
        if not sentences:
            return shorten(f"{word!r} is not on the page {self._page.title}.")
        seen = self._last_lookup[1] if self._last_lookup[0] == word else 0
        self._last_lookup = (word, seen + 1)
        place = seen % len(sentences)
        return shorten(f"({place + 1} of {len(sentences)}) {sentences[place]}")


def _overlap(wanted: set[str], page: Paragraph) -> tuple[int, int, int]:
    """Rank of a page: exact title first, then words shared with the title, then with the text."""
    title = set(normalise(page.title).split())
    return int(title == wanted), len(wanted & title), len(wanted & set(normalise(page.text).split()))


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case without punctuation, articles and extra space, as HotpotQA's own evaluation does."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of word precision and recall, 0 to 1; for yes and no only equality counts."""
    mine, true = normalise(answer), normalise(gold)
    if mine != true and {mine, true} & {"yes", "no", "noanswer"}:
        return 0.0
    shared = (Counter(mine.split()) & Counter(true.split())).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(mine.split()), shared / len(true.split())
    return 2 * precision * recall / (precision + recall)


def score(answer: str, gold: str) -> tuple[bool, float]:
    """Exact match and F1. A number is compared by value, as normalising takes the sign and the point away."""
    try:
        exact = float(answer.strip().rstrip(".").replace(",", "")) == float(gold)
    except ValueError:
        return normalise(answer) == normalise(gold), f1(answer, gold)
    return exact, float(exact)


def mentions(answer: str, gold: str) -> bool:
    """Whether `gold` stands in a longer answer, as words or as a number of its own; case does not matter."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", answer)
    return re.search(rf"(?<![\w.-]){re.escape(gold)}(?!\w|[.,:]\d)", text, re.IGNORECASE) is not None
