"""Passing a call's place on to engines that take a `priority` in the body of a request. Pure.

Sources: ``sglang/srt/arg_groups/fields/schedule.py`` of SGLang 0.5.23: higher first, unless it was started with
``--schedule-low-priority-values-first``; with a difference of ten or more a call preempts another, which levels never
reach. vLLM's page on its OpenAI-compatible server: lower first, and calls with another one than 0 are refused without
``--scheduling-policy priority``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from json.decoder import JSONDecoder

PRIORITY_PATHS = frozenset(
    f"/v1/{name}"
    for name in (
        "chat/completions",
        "chat/completions/batch",
        "classify",
        "completions",
        "embeddings",
        "rerank",
        "responses",
        "score",
    )
)
"""Calls that may carry a `priority`; the messages API has none."""

_KEY = "priority"
_SPACE = " \t\n\r"
_DECODER = JSONDecoder()


def with_priority(body: bytes, priority: int) -> bytes:
    """Return a request's body with this `priority` in place of any that its client gave it.

    All else stays as it was, byte by byte but for an encoding other than UTF-8. A body that is no JSON object stays
    as it is: the engine says what is wrong with it.

    Args:
        body: of the request, not compressed.
        priority: see `kinds.PriorityOrder`.
    """
    try:
        text = body.decode(json.detect_encoding(body), "surrogatepass")
        members = list(_members(text))
    except (ValueError, IndexError, RecursionError):
        return body
    others = [member for key, member in members if key != _KEY]
    return ("{" + ",".join([*others, f'"{_KEY}":{priority}']) + "}").encode("utf-8", "surrogatepass")


def _members(text: str) -> Iterator[tuple[str, str]]:
    """Yield the key and the text of each member of a JSON object.

    Raises:
        ValueError, IndexError, RecursionError: it is none.
    """
    at = _expect(text, 0, "{")
    if text[_blank(text, at)] == "}":
        at = _expect(text, at, "}")
    else:
        while True:
            start = _blank(text, at)
            key, at = _DECODER.raw_decode(text, start)
            if not isinstance(key, str):
                raise ValueError(key)
            _, at = _DECODER.raw_decode(text, _blank(text, _expect(text, at, ":")))
            yield key, text[start:at]
            if text[_blank(text, at)] != ",":
                at = _expect(text, at, "}")
                break
            at = _expect(text, at, ",")
    if _blank(text, at) != len(text):
        raise ValueError("there is more than one value")


def _expect(text: str, at: int, sign: str) -> int:
    """Return where what follows `sign` begins."""
    at = _blank(text, at)
    if text[at] != sign:
        raise ValueError(f"no {sign} at {at}")
    return at + 1


def _blank(text: str, at: int) -> int:
    """Return where the next thing begins that is no white space."""
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at
