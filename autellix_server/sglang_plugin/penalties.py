"""Hooks that keep what penalties have counted right, whatever else the engine did between two tokens of a request.

SGLang counts a request's output for its frequency, presence and repetition penalties and for `min_new_tokens`: nothing
at a prefill, at each decode step the last token it has on the host. A request that left and comes back begins again
at nothing. With overlap scheduling the last token on the host is the one before that which the step is fed with, unless
a prefill came between: then it is the very one, the one before is never counted, and this one is counted twice.

Here the token to count is found by its position: the step's own input, or with overlap scheduling the token before it,
which for the first step is the last one of the prompt. That is what SGLang counts of a request that runs alone, and so
answers are the same as with its own policies. A prefill counts at once what the steps before it would have counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class PenaltyHooks:
    """The hooks of one scheduler process; stateless.

    Args:
        count: lets a batch's penalizers count one token of each request.
        replay: lets the penalizers of a batch that has counted nothing count several tokens of each request.
    """

    def __init__(
        self, count: Callable[[Any, Sequence[int]], None], replay: Callable[[Any, Sequence[Sequence[int]]], None]
    ) -> None:
        self._count = count
        self._replay = replay

    def count_output(self, original: Callable[..., Any], batch: Any) -> None:
        """AROUND `ScheduleBatch.cumulate_penalty_output_tokens`: count for a decode step; only called with penalties.

        The batch's lengths are those before the step: a request's position in them is that of the step's input.
        """
        late = int(batch.enable_overlap)
        lengths = batch.seq_lens_cpu.tolist()
        # Members of a beam have lengths but no request of their own.
        tokens = [_token(req, length - late) for req, length in zip(batch.reqs, lengths, strict=False)]
        self._count(batch.sampling_info.penalizer_orchestrator, tokens)

    def replay_output(self, original: Callable[..., Any], batch: Any) -> None:
        """AROUND `ScheduleBatch.prepare_for_extend`: make up for the steps that requests took before they left."""
        original(batch)
        orchestrator = batch.sampling_info.penalizer_orchestrator
        if orchestrator.is_required and any(req.output_ids for req in batch.reqs):
            late = int(batch.enable_overlap)
            self._replay(orchestrator, [_counted(req, late) for req in batch.reqs])


def _token(req: Any, position: int) -> int:
    """Return the token at `position` of prompt and output; the prompt's last one at the earliest."""
    prompt = req.origin_input_ids
    token: int = prompt[-1] if position < len(prompt) else req.output_ids[position - len(prompt)]
    return token


def _counted(req: Any, late: int) -> list[int]:
    """Return what a request that never left has counted when it samples the token after its output."""
    output = list(req.output_ids)
    return [req.origin_input_ids[-1], *output[:-1]] if late and output else output
