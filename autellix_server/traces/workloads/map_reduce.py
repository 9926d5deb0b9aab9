"""Map-reduce programs: a document in chunks, one call a chunk side by side, then one call over all answers."""

from __future__ import annotations

import random

from autellix_server.traces.distributions import Quantiles
from autellix_server.traces.model import TraceCall, TraceProgram

CHUNKS = Quantiles((0, 2), (0.5, 8), (0.9, 20), (0.99, 40), (1, 64))
CHUNK = Quantiles((0, 200), (0.5, 1400), (0.9, 1900), (1, 2048))
SUMMARY = Quantiles((0, 30), (0.5, 150), (0.9, 280), (1, 500))
CONCLUSION = Quantiles((0, 100), (0.5, 350), (0.9, 650), (1, 1200))
INSTRUCTIONS = 180
"""Tokens of the instructions that each of the two prompts begins with, in all programs."""


def map_reduce(rng: random.Random, program_id: str) -> TraceProgram:
    """Return one map-reduce run.

    Args:
        rng: source of randomness.
        program_id: ID of the new program.
    """
    chunks = [
        TraceCall(
            id=str(thread),
            parents=(),
            thread=thread,
            prompt_tokens=INSTRUCTIONS + CHUNK.draw_count(rng),
            shared_prefix_tokens=INSTRUCTIONS if thread else 0,
            output_tokens=SUMMARY.draw_count(rng),
            tool_seconds=0.0,
            role="map",
        )
        for thread in range(CHUNKS.draw_count(rng))
    ]
    conclusion = TraceCall(
        id=str(len(chunks)),
        parents=tuple(call.id for call in chunks),
        thread=0,
        prompt_tokens=INSTRUCTIONS + sum(call.output_tokens for call in chunks),
        shared_prefix_tokens=0,
        output_tokens=CONCLUSION.draw_count(rng),
        tool_seconds=0.0,
        role="reduce",
    )
    return TraceProgram(
        program_id,
        "map_reduce",
        "generated: map-reduce over a document",
        (*chunks, conclusion),
        opening="map-reduce-instructions",
        system_tokens=INSTRUCTIONS,
    )
