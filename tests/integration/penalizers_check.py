"""Run in the engine's environment: requests leave a batch, come back, are counted on, and have what they would have.

Prints how many tokens the longest of them has counted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.sampling import penaltylib

from autellix_server.sglang_plugin import penalizers

VOCABULARY = 50
PENALIZERS = {
    penaltylib.BatchedFrequencyPenalizer,
    penaltylib.BatchedMinNewTokensPenalizer,
    penaltylib.BatchedPresencePenalizer,
    penaltylib.BatchedRepetitionPenalizer,
}


class Request:
    """What the penalizers read of a request, all penalties or none, and the tokens that were counted."""

    def __init__(self, draw: random.Random) -> None:
        self.counted: list[int] = []
        self.eos_token_ids = None
        self.tokenizer = SimpleNamespace(additional_stop_token_ids=None, eos_token_id=2)
        self.sampling_params = SimpleNamespace(
            frequency_penalty=draw.choice([0.0, 0.1, 0.3, -1.7]),
            presence_penalty=draw.choice([0.0, 0.7, -0.1]),
            repetition_penalty=draw.choice([1.0, 1.0, 1.3]),
            min_new_tokens=draw.choice([0, 0, 40, 200]),
            stop_token_ids={draw.randrange(VOCABULARY)},
        )


@dataclass(eq=False)
class Batch:
    """Requests and their penalizers, as SGLang's batch holds them."""

    reqs: list[Request]
    device: str = "cpu"
    penalizers: Any = field(init=False)

    def __post_init__(self) -> None:
        self.penalizers = penaltylib.BatchedPenalizerOrchestrator(VOCABULARY, self, PENALIZERS)

    def merge(self, other: Batch) -> None:
        """Take over the requests of another batch."""
        self.penalizers.merge(other.penalizers)
        self.reqs = self.reqs + other.reqs

    def leave(self, leaving: list[Request]) -> None:
        """Let some go, not all."""
        keep = [index for index, req in enumerate(self.reqs) if req not in leaving]
        self.reqs = [self.reqs[index] for index in keep]
        self.penalizers.filter(torch.tensor(keep))

    def penalties(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What is added to the logits, and by what they are scaled."""
        added = torch.zeros(len(self.reqs), VOCABULARY)
        self.penalizers.accumulate_additive_penalties(added)
        scaled = self.penalizers.accumulate_scaling_penalties()
        return added, torch.ones_like(added) if scaled is None else scaled

    def check(self) -> None:
        """Compare each request with one of its own that counted the same, token by token."""
        for index, req in enumerate(self.reqs):
            alone = Batch([req])
            for token in req.counted:
                penalizers.count(alone.penalizers, [token])
            for mine, expected in zip(self.penalties(), alone.penalties(), strict=True):
                assert torch.equal(mine[index], expected[0]), vars(req)


def main() -> None:
    """Sixty rounds: some come back, all count a few tokens, half of them leave."""
    draw = random.Random(7)
    running, *away = [Request(draw) for _ in range(12)]
    batch = Batch([running])
    for _ in range(60):
        coming = draw.sample(away, k=min(len(away), 3))
        resumed = Batch(coming)
        penalizers.replay(resumed.penalizers, [req.counted for req in coming])
        resumed.check()
        batch.merge(resumed)
        for _ in range(draw.randrange(8)):
            tokens = [draw.randrange(VOCABULARY) for _ in batch.reqs]
            penalizers.count(batch.penalizers, tokens)
            for req, token in zip(batch.reqs, tokens, strict=True):
                req.counted.append(token)
        batch.check()
        leaving = draw.sample(batch.reqs, k=len(batch.reqs) // 2)
        batch.leave(leaving)
        away = [req for req in away if req not in coming] + leaving
    print(max(len(req.counted) for req in away))


main()
