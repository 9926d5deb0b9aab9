"""How SGLang's penalizers are made to count; importing it imports SGLang.

A batch's penalizers keep one row per request: for penalties of float32 ``[requests, vocabulary]``, for
`min_new_tokens` an int32 ``[requests, 1]``. What is counted here is what counting token by token gives, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.sampling import penaltylib
from sglang.srt.utils.common import is_pin_memory_available


def count(orchestrator: Any, tokens: Sequence[int]) -> None:
    """Count one token of each request of a batch."""
    orchestrator.cumulate_output_tokens(_on_device(tokens, orchestrator.device))


def replay(orchestrator: Any, outputs: Sequence[Sequence[int]]) -> None:
    """Count `outputs`, any number of tokens of each request, for a batch that has counted nothing yet."""
    rows = [row for row, tokens in enumerate(outputs) for _ in tokens]
    cells = [row * orchestrator.vocab_size + token for row, tokens in enumerate(outputs) for token in tokens]
    counted = _Counted(
        rows=_on_device(rows, orchestrator.device),
        cells=_on_device(cells, orchestrator.device),
        lengths=_on_device([len(tokens) for tokens in outputs], orchestrator.device),
    )
    for kind, penalizer in orchestrator.penalizers.items():
        if penalizer.is_prepared():
            _REPLAY[kind](penalizer, counted)


@dataclass(frozen=True, slots=True)
class _Counted:
    """Tokens to count, all requests' in one line: int64 on the penalizers' device.

    Attributes:
        rows: row of each token's request.
        cells: place of each token in a matrix of one row per request and one column per token of the vocabulary.
        lengths: tokens of each request.
    """

    rows: Any
    cells: Any
    lengths: Any


def _frequency(penalizer: Any, counted: _Counted) -> None:
    penalties = penalizer.frequency_penalties.view(-1)[counted.rows]
    penalizer.cumulated_frequency_penalties.view(-1).scatter_add_(0, counted.cells, penalties)


def _presence(penalizer: Any, counted: _Counted) -> None:
    penalties = penalizer.presence_penalties.view(-1)[counted.rows]
    penalizer.cumulated_presence_penalties.view(-1).scatter_(0, counted.cells, penalties)


def _repetition(penalizer: Any, counted: _Counted) -> None:
    penalties = penalizer.repetition_penalties.view(-1)[counted.rows]
    penalizer.cumulated_repetition_penalties.view(-1).scatter_(0, counted.cells, penalties)


def _min_new_tokens(penalizer: Any, counted: _Counted) -> None:
    penalizer.len_output_tokens.add_(counted.lengths.unsqueeze(1))


_REPLAY: dict[type, Callable[[Any, _Counted], None]] = {
    penaltylib.BatchedFrequencyPenalizer: _frequency,
    penaltylib.BatchedPresencePenalizer: _presence,
    penaltylib.BatchedRepetitionPenalizer: _repetition,
    penaltylib.BatchedMinNewTokensPenalizer: _min_new_tokens,
}


def _on_device(values: Sequence[int], device: Any) -> Any:
    """Return an int64 tensor; the copy waits for nothing that runs on the device."""
    pinned = is_pin_memory_available(device)
    return torch.tensor(values, dtype=torch.int64, pin_memory=pinned).to(device, non_blocking=True)
