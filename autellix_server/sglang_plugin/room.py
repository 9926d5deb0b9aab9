"""What the engine has room for, by its own measure, and which requests can be made to leave.

Mirrors `PrefillAdder` of SGLang 0.5.23: a request is admitted on what is free or can be evicted, less a reserve for
what the running ones are still to generate, and needs its whole prompt and output. A plan on any other measure would
make a request leave for one that is refused then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor
from typing import Any

_ABORTED = "abort"
"""Type of SGLang's `FINISH_ABORT`."""


@dataclass(frozen=True, slots=True)
class RoomMeter:
    """Reads the room of one scheduler.

    Attributes:
        longest_output: output tokens beyond which the engine reserves no more for a request.
    """

    longest_output: int

    def slots(self, scheduler: Any, running_batch: Any) -> int:
        """Return how many more requests may run; 0 or more."""
        chunked = scheduler.chunked_req is not None
        free: int = scheduler.get_num_allocatable_reqs(
            len(running_batch.reqs), running_batch=running_batch, num_held_rows=int(chunked)
        )
        return max(0, free - chunked)

    def tokens(self, scheduler: Any, running_batch: Any) -> int:
        """Return how many tokens more may be admitted; 0 or more, whatever has been promised."""
        budget = scheduler.token_to_kv_pool_allocator.create_prefill_budget(scheduler.tree_cache)
        reserve = sum(self._reserve(scheduler, req) for req in running_batch.reqs)
        free: float = budget.remaining_total - reserve - prompt_left(scheduler.chunked_req)
        return max(0, floor(free))

    def needed(self, scheduler: Any, req: Any) -> int:
        """Return the tokens that a waiting request must find free, as if none of its prompt were in use by others."""
        # Strictly less than what is free, and one page for rounding.
        return _length(req) + self._output_left(req) + int(scheduler.page_size) + 1

    def freed(self, scheduler: Any, req: Any) -> int:
        """Return the tokens that a running request leaves behind, as if it shared none of them."""
        # For the output of a prompt in chunks nothing is reserved before the last one.
        promised = prompt_left(req) if req is scheduler.chunked_req else floor(self._reserve(scheduler, req))
        return int(req.kv.kv_committed_len) + promised

    def _output_left(self, req: Any) -> int:
        left: int = req.sampling_params.max_new_tokens - len(req.output_ids)
        return min(max(left, 0), self.longest_output)

    def _reserve(self, scheduler: Any, req: Any) -> float:
        # Outputs of fixed length do not end early.
        ratio: float = 1.0 if req.sampling_params.ignore_eos else scheduler.new_token_ratio_tracker.current
        return self._output_left(req) * ratio


def prompt_left(chunked_req: Any) -> int:
    """Return the prompt tokens still to be computed of the request that is prefilled in chunks; 0: there is none."""
    return 0 if chunked_req is None else max(0, _length(chunked_req) - int(chunked_req.prefix_len))


def can_leave(req: Any, *, in_chunks: bool = False) -> bool:
    """Return whether a running request can wait and go on later as if nothing had happened.

    Not one that is finished or about to be, whose first token is under way, or that carries state which the engine
    loses or repeats when it computes a prompt again: beams, streaming sessions, embeddings as input, and outputs that
    belong to prompt positions.

    Args:
        req: SGLang's request.
        in_chunks: a part of its prompt is still to be computed.
    """
    return not (
        req.finished()
        or req.to_finish
        or not (req.output_ids or in_chunks)
        or req.next_output_finishes_by_length()
        or req.beam_group is not None
        or in_session(req)
        or req.input_embeds is not None
        or (req.return_logprob and 0 <= req.logprob_start_len < len(req.origin_input_ids))
        or req.return_hidden_states
        or req.return_routed_experts
        or req.return_indexer_topk
    )


def leaves_history(req: Any) -> bool:
    """Return whether a request that is gone finished, so that a later call of its program may begin with all of it.

    What a streaming session has of it is the session's.
    """
    return req.finished() and req.finished_reason.to_json()["type"] != _ABORTED and not in_session(req)


def in_batch(scheduler: Any, running_batch: Any) -> Iterable[Any]:
    """Return every request that runs, one whose prompt is being computed in chunks last."""
    chunked = scheduler.chunked_req
    return running_batch.reqs if chunked is None else [*running_batch.reqs, chunked]


def in_session(req: Any) -> bool:
    """Return whether a request is a turn of a streaming session, whose KV the session keeps."""
    return req.session is not None and bool(req.session.streaming)


def _length(req: Any) -> int:
    return len(req.origin_input_ids) + len(req.output_ids)
