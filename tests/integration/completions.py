"""Completions whose answers tests compare: disturbed as much as can be, and undisturbed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import httpx

from autellix_sdk.bill import CallBill, decode_bill
from autellix_sdk.wire import BILL_HEADER, PROGRAM_HEADER


@dataclass(frozen=True)
class Answer:
    """One completion.

    Attributes:
        text: all of it.
        bill: what it took.
        tokens: IDs of its tokens, if asked for with ``return_token_ids``.
        logprobs: log probabilities of its tokens, if asked for with ``logprobs``.
        leads: by how much the likeliest token was likelier than the second, at each step, with ``logprobs: 2``.
    """

    text: str
    bill: CallBill
    tokens: list[int]
    logprobs: list[float]
    leads: list[float]


def prompt(number: int, sentences: int = 1) -> str:
    """A prompt of its own for every number."""
    return f"Story {number}. " + " ".join(f"There once was a king with {number + i} horses." for i in range(sentences))


async def complete(
    http: httpx.AsyncClient, text: str | Sequence[int], tokens: int, program: str, **options: object
) -> Answer:
    """Ask for a greedy completion, of text or token IDs, of exactly `tokens` tokens, unless told otherwise."""
    body = {"model": "default", "prompt": text, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **options}
    response = await http.post("/completions", json=body, headers={PROGRAM_HEADER: program})
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    steps = choice["logprobs"] or {}
    return Answer(
        choice["text"],
        decode_bill(response.headers[BILL_HEADER]),
        choice.get("token_ids", []),
        steps.get("token_logprobs", []),
        [lead(top) for top in steps.get("top_logprobs") or []],
    )


def lead(top: Mapping[str, float | None]) -> float:
    """Return by how much the first of the likeliest tokens leads the second; ruled out ones come as `None`."""
    first, *others = sorted((logprob for logprob in top.values() if logprob is not None), reverse=True)
    return first - others[0] if others else inf


async def undisturbed(
    http: httpx.AsyncClient, prompts: Sequence[str], tokens: int, every_options: Sequence[dict[str, object]]
) -> list[Answer]:
    """The same completions, away from what the others left in the engine's cache.

    One at a time: where steps are slow, even a call of two makes room for the other.
    """
    answers = [
        await complete(http, text, tokens, f"calm-{number}", **options, cache_salt="calm")
        for number, (text, options) in enumerate(zip(prompts, every_options, strict=True))
    ]
    assert sum(answer.bill.preemptions for answer in answers) == 0
    return answers


PERSON = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 30}, "horses": {"type": "integer", "maximum": 99}},
        "required": ["name", "horses"],
    }
)
PLAIN: dict[str, object] = {}
STATEFUL: tuple[dict[str, object], ...] = (
    {"stop": ["horses", "king"]},
    {"logprobs": 2},
    {"json_schema": PERSON, "ignore_eos": False},
    {"regex": "[a-z ]{80}", "ignore_eos": False},
    {"logit_bias": {"4197": 3, "8419": -100}},
)
MINIMUM: dict[str, object] = {"min_tokens": 20, "stop_token_ids": [30, 8419], "ignore_eos": False}
"""Those tokens are the full stop and horses."""
COUNTING: tuple[dict[str, object], ...] = (
    {"frequency_penalty": 0.5, "presence_penalty": 0.3},
    {"repetition_penalty": 1.2},
    MINIMUM,
    {"frequency_penalty": -0.4, "presence_penalty": 0.2, "repetition_penalty": 1.1, **MINIMUM},
)
"""Options that depend on all of the output so far."""
