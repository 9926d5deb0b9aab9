"""Coding agents: long serial sessions over a growing context, now and then with subagents beside them.

The quantiles have the shape of public coding-agent sessions of up to 64k tokens (Weka's kv-cache-tester): a shared
opening of tools and system prompt, files and command output in the observations, tools that take seconds to minutes,
and a person who takes longer.
"""

from __future__ import annotations

import random
from dataclasses import replace

from autellix_server.traces.distributions import Quantiles
from autellix_server.traces.model import END_TURN, TraceCall, TraceProgram, followed_by

CALLS = Quantiles((0, 3), (0.1, 4), (0.25, 7), (0.5, 12), (0.75, 21), (0.9, 32), (1, 67))
TASK = Quantiles((0, 129), (0.25, 627), (0.5, 2500), (0.75, 5389), (0.9, 12000), (1, 30000))
OBSERVATION = Quantiles(
    (0, 81), (0.1, 209), (0.25, 355), (0.5, 638), (0.75, 1583), (0.9, 3678), (0.97, 7000), (1, 16000)
)
STEP = Quantiles((0, 21), (0.1, 97), (0.25, 133), (0.5, 231), (0.75, 467), (0.9, 1153), (0.97, 2541), (1, 8000))
TOOL_SECONDS = Quantiles((0, 0.1), (0.1, 3.6), (0.25, 4.8), (0.5, 7.9), (0.75, 18), (0.9, 80), (0.97, 330), (1, 1800))
PERSON_SECONDS = Quantiles((0, 5), (0.1, 44), (0.25, 78), (0.5, 250), (0.75, 720), (1, 1800))
TOOL_TOKENS, SYSTEM_TOKENS = 12_400, 2_800
PERSON_SHARE = 0.1
SUBAGENT_SHARE = 0.03
SUBAGENT_CALLS = Quantiles((0, 2), (0.5, 8), (0.9, 14), (1, 24))
SUBAGENT_OPENING = 9_500


def coding(rng: random.Random, program_id: str) -> TraceProgram:
    """Return one coding session.

    Args:
        rng: source of randomness.
        program_id: ID of the new program.
    """
    calls = [_first(rng, 0, TOOL_TOKENS + SYSTEM_TOKENS + TASK.draw_count(rng))]
    last, report = calls[0], None
    for _ in range(CALLS.draw_count(rng) - 1):
        if rng.random() < SUBAGENT_SHARE:
            report = _run_subagent(rng, calls, last)
        last = _next(rng, calls, last)
        if report is not None:
            last = replace(last, parents=(*last.parents, report.id))
            report = None
        calls.append(last)
    return TraceProgram(
        program_id,
        "coding",
        "generated: coding-agent session",
        tuple(calls),
        opening="coding-tools",
        tool_tokens=TOOL_TOKENS,
        system_tokens=SYSTEM_TOKENS,
    )


def _run_subagent(rng: random.Random, calls: list[TraceCall], asked_by: TraceCall) -> TraceCall:
    """Add a thread of its own context that starts after `asked_by`; return its last call, which reports back."""
    first = _first(rng, len(calls), SUBAGENT_OPENING + TASK.draw_count(rng) // 4)
    thread = max(call.thread for call in calls) + 1
    last = replace(first, parents=(asked_by.id,), thread=thread, role="subagent")
    calls.append(last)
    for _ in range(SUBAGENT_CALLS.draw_count(rng) - 1):
        last = replace(_next(rng, calls, last), stop=None, role="subagent")
        calls.append(last)
    return last


def _first(rng: random.Random, index: int, prompt_tokens: int) -> TraceCall:
    return followed_by(
        None,
        call_id=str(index),
        new_tokens=prompt_tokens,
        output_tokens=STEP.draw_count(rng),
        tool_seconds=round(TOOL_SECONDS.draw(rng), 3),
    )


def _next(rng: random.Random, calls: list[TraceCall], last: TraceCall) -> TraceCall:
    """Return the call after `last` on its thread; what it waits for is a tool's, or now and then a person's, gap."""
    person = rng.random() < PERSON_SHARE
    return followed_by(
        last,
        call_id=str(len(calls)),
        new_tokens=OBSERVATION.draw_count(rng),
        output_tokens=STEP.draw_count(rng),
        tool_seconds=round((PERSON_SECONDS if person else TOOL_SECONDS).draw(rng), 3),
        stop=END_TURN if person else None,
    )
