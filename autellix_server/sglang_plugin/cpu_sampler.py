"""Drawing tokens with a compiled operation: SGLang's sampler for a CPU sorts the whole vocabulary for top-p."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.sampler import Sampler

from autellix_server.cpu_ops.library import CpuOps


class CpuSampler(Sampler):  # type: ignore[misc]
    """SGLang's sampler, but for how a token is drawn from probabilities.

    Left to SGLang: seeded draws, which it makes for deterministic inference, and calls that report what they drew from.
    """

    def __init__(self, ops: CpuOps) -> None:
        super().__init__()
        self._ops = ops

    def _sample_from_probs(
        self, probs: torch.Tensor, sampling_info: Any, positions: torch.Tensor, simple_sampling_case: bool
    ) -> tuple[torch.Tensor, Any]:
        info = sampling_info
        if info.sampling_seed is not None or info.sampling_mask_batch_indices is not None or probs.stride(1) != 1:
            return super()._sample_from_probs(probs, info, positions, simple_sampling_case)  # type: ignore[no-any-return]
        limits = (None,) * 3 if simple_sampling_case else (info.top_ks, info.top_ps, info.min_ps)
        return self._ops.sample(probs, torch.rand(len(probs), dtype=torch.float32), *limits), None
