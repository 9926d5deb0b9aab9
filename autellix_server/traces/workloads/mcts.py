"""Tree search programs: rounds of parallel calls that grow a tree of ReAct steps and judge its new leaves.

Source: Autellix section 8, LATS on HotpotQA: 159.71 calls a program (about 400 at most), 467.24 tokens of prefill and
72.64 of decode a call. Each round takes the most promising leaf, samples `WIDTH` next steps from one prompt, runs
their tools, and judges each new leaf with a prompt of its own; a round's calls all wait for the calls before them.
Siblings share their whole prompt, and a judgement shares the path to its leaf's parent, so nearly all prefill is
observations: their length is chosen so that the mean is the paper's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from autellix_server.traces.distributions import Quantiles
from autellix_server.traces.model import TraceCall, TraceProgram

CALLS = Quantiles((0, 11), (0.1, 30), (0.25, 70), (0.5, 134), (0.75, 247), (0.9, 344), (0.97, 387), (1, 400))
QUESTION = Quantiles((0, 8), (0.5, 20), (0.9, 35), (1, 60))
STEP = Quantiles((0, 18), (0.1, 36), (0.25, 44), (0.5, 57), (0.75, 75), (0.9, 105), (0.97, 150), (0.99, 180), (1, 300))
JUDGEMENT = Quantiles((0, 30), (0.1, 52), (0.25, 60), (0.5, 74), (0.75, 91), (0.9, 119), (0.97, 150), (1, 260))
OBSERVATION = Quantiles(
    (0, 12), (0.1, 92), (0.25, 225), (0.5, 495), (0.75, 930), (0.9, 1540), (0.97, 2350), (0.99, 3200), (1, 6000)
)
TOOL_SECONDS = Quantiles((0, 0), (0.3, 0.2), (0.5, 0.7), (0.9, 1.2), (0.99, 2.5), (1, 8))
PROMISE_SPREAD = 0.5
"""How far a leaf's promise may differ from its parent's: larger wanders more, smaller goes deep."""

WIDTH = 5
DEPTH = 7
INSTRUCTIONS = 1650
"""Tokens of the examples that every prompt of one role begins with, in all programs."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A state of the search: the step that led here, what its tool said, and how it was judged."""

    step: TraceCall
    observation_tokens: int
    judged: TraceCall
    depth: int
    promise: float


def mcts(rng: random.Random, program_id: str) -> TraceProgram:
    """Return one tree search.

    Args:
        rng: source of randomness.
        program_id: ID of the new program.
    """
    search = _Search(rng, CALLS.draw_count(rng))
    while search.room:
        search.expand()
    return TraceProgram(
        program_id,
        "mcts",
        "generated: LATS-like tree search",
        tuple(search.calls),
        opening="mcts-instructions",
        system_tokens=INSTRUCTIONS,
    )


class _Search:
    """A tree that grows until its calls are spent.

    Args:
        rng: source of randomness.
        budget: number of calls.
    """

    def __init__(self, rng: random.Random, budget: int) -> None:
        self.calls: list[TraceCall] = []
        self._rng = rng
        self._budget = budget
        self._leaves: list[_Node] = []
        self._last_round: tuple[str, ...] = ()
        self._question_tokens = INSTRUCTIONS + QUESTION.draw_count(rng)

    @property
    def room(self) -> int:
        """Calls left."""
        return self._budget - len(self.calls)

    def expand(self) -> None:
        """Sample the next steps of the best leaf, then judge them: two rounds."""
        leaf = max(self._leaves, key=lambda node: node.promise, default=None)
        if leaf is not None:
            self._leaves.remove(leaf)
        steps = self._sample(leaf)
        judgements = self._judge(leaf, steps)
        depth = leaf.depth + 1 if leaf else 1
        if depth < DEPTH:
            promise = leaf.promise if leaf else 0.0
            self._leaves += (
                _Node(step, observed, judged, depth, promise + self._rng.gauss(0, PROMISE_SPREAD))
                for (step, observed), judged in zip(steps, judgements, strict=False)
            )

    def _sample(self, leaf: _Node | None) -> list[tuple[TraceCall, int]]:
        """Sample steps from one prompt; return each with the length of what its tool says."""
        shared = leaf.step.history_tokens if leaf else 0
        prompt = shared + leaf.observation_tokens if leaf else self._question_tokens
        round_of = [
            self._call("generate", thread, prompt, prompt if thread else shared, STEP, TOOL_SECONDS)
            for thread in range(min(WIDTH, self.room))
        ]
        return [(step, OBSERVATION.draw_count(self._rng)) for step in self._close(round_of)]

    def _judge(self, leaf: _Node | None, steps: list[tuple[TraceCall, int]]) -> list[TraceCall]:
        """Judge the new leaves, each by its own prompt: the path so far, the step and what its tool said."""
        path = leaf.judged.prompt_tokens if leaf else self._question_tokens
        round_of = []
        for thread, (step, observed) in enumerate(steps[: self.room]):
            shared = path if leaf or thread else 0
            prompt = path + step.output_tokens + observed
            round_of.append(self._call("value", thread, prompt, shared, JUDGEMENT, None))
        return self._close(round_of)

    def _call(
        self, role: str, thread: int, prompt: int, shared: int, output: Quantiles, tool: Quantiles | None
    ) -> TraceCall:
        return TraceCall(
            id=str(len(self.calls) + thread),
            parents=self._last_round,
            thread=thread,
            prompt_tokens=prompt,
            shared_prefix_tokens=shared,
            output_tokens=output.draw_count(self._rng),
            tool_seconds=round(tool.draw(self._rng), 3) if tool else 0.0,
            role=role,
        )

    def _close(self, round_of: list[TraceCall]) -> list[TraceCall]:
        """Add a round of calls that ran side by side; the next round waits for all of them."""
        self.calls += round_of
        if round_of:
            self._last_round = tuple(call.id for call in round_of)
        return round_of
