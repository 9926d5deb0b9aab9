"""ShareGPT: conversations between people and a chat model, as one JSON list.

Each item has an ``id`` and ``conversations``, a list of ``{"from": "human" | "gpt" | "system", "value": text}``. Long
conversations come in parts whose IDs end in ``_0``, ``_1`` and so on; they are put together again.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from autellix_server.traces.jsonl import open_text
from autellix_server.traces.model import END_TURN, TraceCall, TraceError, TraceProgram, fault, followed_by
from autellix_server.traces.readers.text import TokenCounter, estimate_tokens, program_id

_PART = re.compile(r"(.+)_(\d+)")
_MODEL = ("gpt", "chatgpt", "bing", "bard")


def read_sharegpt(path: Path, count_tokens: TokenCounter = estimate_tokens) -> Iterator[TraceProgram]:
    """Yield each conversation as a chat program; those in which the model never answers are left out.

    Args:
        path: the JSON file, ``.gz`` too; it is read whole.
        count_tokens: counts the tokens of a message; the default estimates four bytes each.

    Raises:
        TraceError: the file is not such a list; the message names item and field.
    """
    try:
        with open_text(path, "r") as stream:
            items = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"the file is not JSON ({error}); download it again", str(path)) from error
    try:
        for name, messages in _joined(items).items():
            calls = _calls(messages, count_tokens)
            if calls:
                yield TraceProgram(program_id("sharegpt_", name), "chat", "ShareGPT", calls)
    except TraceError as error:
        raise error.at(str(path)) from None


def _joined(items: Any) -> dict[str, list[tuple[bool, str]]]:
    """Return the messages of each conversation, its parts in order, as pairs: is it the model's, and its text."""
    if not isinstance(items, list):
        raise fault("of the file", type(items).__name__, "use the list of conversations of a ShareGPT dump")
    parts: defaultdict[str, list[tuple[int, list[tuple[bool, str]]]]] = defaultdict(list)
    for index, item in enumerate(items):
        try:
            name, turns = str(item["id"]), list(_messages(item["conversations"]))
        except (KeyError, TypeError) as error:
            remedy = 'each needs "id" and "conversations" with "from" and "value"'
            raise TraceError(f"item [{index}] lacks {error}; {remedy}") from error
        part = _PART.fullmatch(name)
        parts[part[1] if part else name].append((int(part[2]) if part else 0, turns))
    return {
        name: [message for _, turns in sorted(found, key=lambda pair: pair[0]) for message in turns]
        for name, found in parts.items()
    }


def _messages(turns: Iterable[Any]) -> Iterator[tuple[bool, str]]:
    for turn in turns:
        yield turn["from"] in _MODEL, str(turn["value"])


def _calls(messages: Iterable[tuple[bool, str]], count_tokens: TokenCounter) -> tuple[TraceCall, ...]:
    """Return one call for each answer; what was said since the last one is new in its prompt."""
    calls: list[TraceCall] = []
    new_tokens = 0
    for from_model, text in messages:
        tokens = count_tokens(text)
        if not from_model or not (calls or new_tokens):
            # A dump may begin with the model's own words; nothing asked for them, so they are history.
            new_tokens += tokens
            continue
        call = followed_by(
            calls[-1] if calls else None,
            call_id=str(len(calls)),
            new_tokens=new_tokens,
            output_tokens=tokens,
            stop=END_TURN,
        )
        calls.append(call)
        new_tokens = 0
    return tuple(calls)
