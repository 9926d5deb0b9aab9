"""BFCL multi-turn: tool-using dialogues of the Berkeley Function Calling Leaderboard, from the package `bfcl-eval`.

The package has user turns, tool documents and the right tool calls, but no model's words: each right call is one step
of a ReAct program, its result comes from running the package's own tools, and the words that end a turn are missing
(`MISSING_TEXT`), so their length is assumed and marked.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from autellix_server.errors import EnvironmentFailure
from autellix_server.traces.model import TraceCall, TraceError, TraceProgram, followed_by
from autellix_server.traces.readers.text import TokenCounter, estimate_tokens, program_id

CATEGORIES = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
MISSING_TEXT = "<end of turn text, not in the dataset>"
"""Stands for the words that end a turn."""

END_OF_TURN_TOKENS = 29
"""Assumed length of those words: a sentence."""

Dialogue = Mapping[str, Any]
"""``program_id``, ``tools`` (documents), ``messages``: each has ``role`` (user, assistant, tool) and ``content``."""


def read_bfcl(category: str, count_tokens: TokenCounter = estimate_tokens) -> Iterator[TraceProgram]:
    """Yield the programs of one category of the installed package.

    Args:
        category: one of `CATEGORIES`.
        count_tokens: counts the tokens of a text; the default estimates four bytes each.

    Raises:
        TraceError: there is no such category.
        EnvironmentFailure: the package is not installed, or cannot be used.
    """
    if category not in CATEGORIES:
        raise TraceError(f"there is no BFCL category {category!r}; use one of {', '.join(CATEGORIES)}")
    return programs_of(_dialogues(category), f"bfcl-eval {category}", count_tokens)


def programs_of(
    dialogues: Iterable[Dialogue], source: str, count_tokens: TokenCounter = estimate_tokens
) -> Iterator[TraceProgram]:
    """Yield a ReAct program for each dialogue: tool documents first, one call for each of the assistant's messages.

    Args:
        dialogues: see `Dialogue`.
        source: what the programs say of where they come from.
        count_tokens: counts the tokens of a text.

    Raises:
        TraceError: a dialogue lacks a field; the message says which of them it is.
    """
    for number, dialogue in enumerate(dialogues):
        try:
            tool_tokens = count_tokens(json.dumps(dialogue["tools"]))
            messages = [(str(message["role"]), str(message["content"])) for message in dialogue["messages"]]
            name = str(dialogue["program_id"])
        except (KeyError, TypeError) as error:
            raise TraceError(f"dialogue {number} lacks {error}; write program_id, tools and messages") from error
        calls = _calls(tool_tokens, messages, count_tokens)
        if calls:
            yield TraceProgram(
                program_id("", name), "react", source, calls, opening=f"bfcl-{tool_tokens}", tool_tokens=tool_tokens
            )


def _calls(tool_tokens: int, messages: list[tuple[str, str]], count_tokens: TokenCounter) -> tuple[TraceCall, ...]:
    calls: list[TraceCall] = []
    new_tokens = tool_tokens
    for role, text in messages:
        if role != "assistant":
            new_tokens += count_tokens(text)
            continue
        missing = text == MISSING_TEXT
        call = followed_by(
            calls[-1] if calls else None,
            call_id=str(len(calls)),
            new_tokens=new_tokens,
            output_tokens=END_OF_TURN_TOKENS if missing else count_tokens(text),
            tool_seconds=0.0,
            synthetic_output=missing,
        )
        calls.append(call)
        new_tokens = 0
    return tuple(calls)


def _dialogues(category: str) -> Iterator[Dialogue]:
    """Play the right calls of every entry through the package's tools."""
    try:
        data = importlib.import_module("bfcl_eval.utils")
        tools = importlib.import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils")
    except ImportError as error:
        remedy = 'install it where autellix runs: pip install "bfcl-eval==2026.3.23"'
        raise EnvironmentFailure(f"BFCL traces need the package bfcl-eval ({error}); {remedy}") from error
    answers = {entry["id"]: entry["ground_truth"] for entry in data.load_ground_truth_entry(category)}
    for entry in data.load_dataset_entry(category):
        messages: list[dict[str, str]] = []
        for asked, steps in zip(entry["question"], answers[entry["id"]], strict=False):
            messages += ({"role": "user", "content": message["content"]} for message in asked)
            for step in steps:
                results, _ = tools.execute_multi_turn_func_call(
                    [step],
                    entry["initial_config"],
                    entry["involved_classes"],
                    "autellix",
                    entry["id"],
                    long_context="long_context" in category,
                )
                messages.append({"role": "assistant", "content": f"[{step}]"})
                messages += ({"role": "tool", "content": result} for result in results)
            messages.append({"role": "assistant", "content": MISSING_TEXT})
        yield {"program_id": entry["id"], "tools": entry["function"], "messages": messages}
