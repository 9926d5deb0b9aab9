"""ReAct programs: one thread of short steps behind long tool schemas, each step replaying all before it.

Source: Autellix section 8, BFCL v3: 10.75 calls a program (70 at most), 735.06 tokens of prefill and 34.14 of decode
a call. The quantiles have the shape of the public BFCL multi-turn set, stretched to these means: a few thousand tokens
of tool schemas once a program, then observations of a few dozen tokens with a rare one of thousands.
"""

from __future__ import annotations

import random

from autellix_server.traces.distributions import Quantiles
from autellix_server.traces.model import TraceCall, TraceProgram, followed_by

CALLS = Quantiles((0, 3), (0.1, 6), (0.25, 8), (0.5, 10), (0.75, 12), (0.9, 15), (0.97, 21), (0.99, 34), (1, 70))
SCHEMAS = Quantiles((0, 2415), (0.1, 2657), (0.25, 3283), (0.5, 4282), (0.75, 5062), (0.9, 5484), (1, 5971))
QUESTION = Quantiles((0, 8), (0.1, 21), (0.25, 28), (0.5, 40), (0.75, 65), (0.9, 96), (1, 226))
OBSERVATION = Quantiles(
    (0, 1), (0.1, 10), (0.25, 15), (0.5, 29), (0.75, 60), (0.9, 310), (0.97, 2700), (0.99, 7000), (1, 32000)
)
STEP = Quantiles((0, 3), (0.1, 9), (0.25, 14), (0.5, 24), (0.75, 36), (0.9, 55), (0.97, 91), (0.99, 162), (1, 1300))
TOOL_SECONDS = Quantiles((0, 0.001), (0.5, 0.05), (0.9, 0.3), (0.99, 1.5), (1, 5))
"""An assumption: the tools of BFCL answer at once, those of the paper's agents are not published."""

TOOL_SETS = 40
"""So many different sets of tools there are; programs with the same set begin with the same text."""


def react(rng: random.Random, program_id: str) -> TraceProgram:
    """Return one ReAct run.

    Args:
        rng: source of randomness.
        program_id: ID of the new program.
    """
    tool_set = rng.randrange(TOOL_SETS)
    tool_tokens = round(SCHEMAS.at((tool_set + 0.5) / TOOL_SETS))
    calls: list[TraceCall] = []
    for index in range(CALLS.draw_count(rng)):
        call = followed_by(
            calls[-1] if calls else None,
            call_id=str(index),
            new_tokens=OBSERVATION.draw_count(rng) if calls else tool_tokens + QUESTION.draw_count(rng),
            output_tokens=STEP.draw_count(rng),
            tool_seconds=round(TOOL_SECONDS.draw(rng), 3),
        )
        calls.append(call)
    return TraceProgram(
        program_id,
        "react",
        "generated: BFCL-like ReAct",
        tuple(calls),
        opening=f"react-tools-{tool_set}",
        tool_tokens=tool_tokens,
    )
