"""Tokens without a tokenizer: words and punctuation, counted about as a byte-pair vocabulary would. Pure.

A token is a 32-bit number, and a row of them is `bytes`, four for each: rows are compared and cut at the speed of
memory. Spaces between words are not tokens, so that words of `traces.vocabulary` count exactly one each, in whatever
way a client glues texts together.
"""

from __future__ import annotations

import random
import re
import zlib
from array import array
from collections.abc import Iterable

from autellix_server.traces.vocabulary import VOCABULARY

TOKEN_BYTES = 4
_MASK = 0xFFFFFFFF

# A common word is one token, a long one several; capitals, digits and other alphabets are cut more finely.
_TOKEN = re.compile(r"[A-Z]?[a-z]{1,10}|[A-Z]{1,4}|\d{1,3}|[^\W\d_]{1,2}|[^\w\s]{1,3}|_|\n+| {2,}|\w|[^\S\n ]+")


def text_tokens(text: str) -> bytes:
    """Return the tokens of `text`."""
    return array("I", map(_number, _TOKEN.findall(text))).tobytes()


def id_tokens(ids: Iterable[int]) -> bytes:
    """Return the tokens of a prompt that is given as token IDs, 0 or more each."""
    return array("I", (token & _MASK for token in ids)).tobytes()


def count(tokens: bytes) -> int:
    """Return how many tokens these are."""
    return len(tokens) // TOKEN_BYTES


def chat_tokens(messages: Iterable[tuple[str, str]]) -> bytes:
    """Return the tokens of a chat as a template lays it out: each message between two marks, then the answer's mark.

    The next turn, which repeats the answer, begins with exactly these tokens and those of the answer.

    Args:
        messages: roles and contents.
    """
    turns = [_BEGIN + text_tokens(f"{role}\n{content}") + _END for role, content in messages]
    return b"".join((*turns, _BEGIN, text_tokens("assistant\n")))


def answer_words(tokens: int, seed: bytes) -> list[str]:
    """Return `tokens` words that depend on `seed` alone; in a text each follows a space, and is one token."""
    return random.Random(seed).choices(VOCABULARY, k=tokens)


def answer_tokens(seed: bytes, mean_tokens: float) -> int:
    """Return where a model would end its answer by itself: 1 or more, exponential around `mean_tokens`."""
    return 1 + int(random.Random(b"length" + seed).expovariate(1 / mean_tokens))


def _number(token: str) -> int:
    return zlib.crc32(token.encode("utf-8", "surrogatepass"))


_BEGIN = array("I", (_number("<begin>"),)).tobytes()
_END = array("I", (_number("<end>"),)).tobytes()
