"""Chat programs: a person and a model take turns, and every call replays the whole conversation.

Source: Autellix section 8, ShareGPT: 6.66 calls a program (80 at most), 255.65 tokens of prefill and 276.81 of decode
a call. The quantiles have the shape of public ShareGPT conversations, stretched to these means: half of the programs
end after 3 calls, one in a hundred goes on past 40; opening messages are longer than later ones; and answers within a
conversation are alike (their logarithms correlate by 0.5).
"""

from __future__ import annotations

import random

from autellix_server.traces.distributions import Quantiles
from autellix_server.traces.model import END_TURN, TraceCall, TraceProgram, followed_by

CALLS = Quantiles((0, 1), (0.25, 1.4), (0.5, 3), (0.75, 7.6), (0.9, 16.3), (0.97, 29), (0.99, 46), (1, 80))
OPENING_MESSAGE = Quantiles(
    (0, 1), (0.1, 8), (0.25, 20), (0.5, 60), (0.75, 230), (0.9, 800), (0.97, 2300), (0.99, 3600), (1, 12000)
)
LATER_MESSAGE = Quantiles(
    (0, 0), (0.1, 2), (0.25, 10), (0.5, 28), (0.75, 107), (0.9, 500), (0.97, 1750), (0.99, 3200), (1, 12000)
)
ANSWER = Quantiles(
    (0, 1), (0.1, 45), (0.25, 125), (0.5, 243), (0.75, 375), (0.9, 560), (0.97, 740), (0.99, 860), (1, 2048)
)
LIKENESS = 0.5


def chat(rng: random.Random, program_id: str) -> TraceProgram:
    """Return one conversation. Its gaps are unknown: the dataset has no times, and a person's pause is nobody's tool.

    Args:
        rng: source of randomness.
        program_id: ID of the new program.
    """
    talkative = rng.gauss(0, 1)
    calls: list[TraceCall] = []
    for index in range(CALLS.draw_count(rng)):
        message = LATER_MESSAGE.draw_count(rng) if calls else max(1, OPENING_MESSAGE.draw_count(rng))
        call = followed_by(
            calls[-1] if calls else None,
            call_id=str(index),
            new_tokens=message,
            output_tokens=max(1, ANSWER.draw_count_alike(rng, talkative, LIKENESS)),
            stop=END_TURN,
        )
        calls.append(call)
    return TraceProgram(program_id, "chat", "generated: ShareGPT-like chat", tuple(calls))
