"""Mooncake: requests of a chat service with the hashes of their prompt's blocks, one JSON object a line.

A line has ``timestamp`` (milliseconds), ``input_length``, ``output_length`` and ``hash_ids``, one for each block of
512 prompt tokens; equal hashes mean equal prompts up to the end of that block. The trace does not say which requests
belong together: a request continues the latest one whose full blocks it begins with, unless other sessions begin with
them too, as with a common system prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autellix_server.traces.jsonl import open_text
from autellix_server.traces.model import TraceCall, TraceError, TraceProgram, fault

BLOCK_TOKENS = 512

_LARGEST = 10**15
"""Of times in milliseconds and of lengths: more is no such trace."""


@dataclass(frozen=True, slots=True)
class _Request:
    """One line of the trace."""

    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]

    @property
    def full_blocks(self) -> int:
        """Blocks that the prompt fills to the end."""
        return min(self.prompt_tokens // BLOCK_TOKENS, len(self.blocks))


def read_mooncake(path: Path) -> Iterator[TraceProgram]:
    """Yield the sessions of the trace by the time of their first request; gaps are unknown, arrivals are not.

    Args:
        path: the JSONL file, ``.gz`` too.

    Raises:
        TraceError: a line is not such a request; the message names line, field and value.
    """
    sessions = _Sessions()
    for request in _requests(path):
        sessions.add(request)
    for number, calls in enumerate(sessions.calls):
        yield TraceProgram(
            f"mooncake-{number}", "chat", "Mooncake: sessions inferred from hash_ids", tuple(calls), calls[0].t
        )


class _Sessions:
    """Joins requests into sessions, in order of arrival."""

    def __init__(self) -> None:
        self.calls: list[list[TraceCall]] = []
        self._by_last_block: dict[int, int] = {}
        self._first_session: dict[int, int] = {}
        self._common: set[int] = set()

    def add(self, request: _Request) -> None:
        """Add a request to the session that it continues, or to a new one."""
        open_blocks = (block for block in reversed(request.blocks) if block in self._by_last_block)
        found = next((block for block in open_blocks if block not in self._common), None)
        if found is None:
            number, shared = len(self.calls), 0
            self.calls.append([])
        else:
            number = self._by_last_block.pop(found)
            shared = min((request.blocks.index(found) + 1) * BLOCK_TOKENS, request.prompt_tokens)
        self.calls[number].append(_call(self.calls[number], request, shared))
        if request.full_blocks:
            self._by_last_block[request.blocks[request.full_blocks - 1]] = number
        self._common.update(
            block for block in request.blocks if self._first_session.setdefault(block, number) != number
        )


def _call(session: list[TraceCall], request: _Request, shared: int) -> TraceCall:
    first = TraceCall("0", (), 0, request.prompt_tokens, shared, request.output_tokens, t=request.arrived_s)
    return replace(first, id=str(len(session)), parents=(session[-1].id,)) if session else first


def _requests(path: Path) -> Iterator[_Request]:
    with open_text(path, "r") as stream:
        for line, text in enumerate(stream, start=1):
            if text.strip():
                try:
                    yield _request(json.loads(text))
                except TraceError as error:
                    raise error.at(str(path), line) from None
                except (ValueError, RecursionError) as error:
                    raise TraceError(f"the line is not JSON ({error}); download it again", str(path), line) from error


def _request(record: object) -> _Request:
    if not isinstance(record, dict):
        raise fault("of the line", record, "use one JSON object a line")
    blocks = record.get("hash_ids")
    if not isinstance(blocks, list) or not all(type(block) is int for block in blocks):
        raise fault("hash_ids", blocks, "use a list of whole numbers")
    arrived_ms = _count(record, "timestamp", 0)
    prompt, output = _count(record, "input_length", 1), _count(record, "output_length", 0)
    return _Request(arrived_ms / 1000, prompt, output, tuple(blocks))


def _count(record: dict[str, Any], name: str, least: int) -> int:
    value = record.get(name)
    if type(value) is not int or value < least:
        raise fault(name, value, f"use a whole number of {least} or more")
    if value > _LARGEST:
        raise fault(name, value, f"use at most {_LARGEST}")
    return value
