"""SGLang's own Llama; importing this has host memory damage KV, while the file is there that `BAD_MEMORY` names.

Of every other operation that brings KV there the values of the first page change their sign.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import Any

import torch
from sglang.srt.models.llama import LlamaForCausalLM

from autellix_server.sglang_plugin.host_pool import KernelHostPool

EntryClass = LlamaForCausalLM

_copy = KernelHostPool.backup_from_device_all_layer
_operations = count()
_switch = Path(os.environ["BAD_MEMORY"])


def damage(pool: KernelHostPool, device_pool: Any, host_indices: torch.Tensor, *others: Any) -> None:
    """Copy as the pool does, and then do the damage."""
    _copy(pool, device_pool, host_indices, *others)
    if _switch.exists() and next(_operations) % 2 == 0:
        assert pool.layout == "layer_first"
        pool.v_buffer[:, host_indices[: pool.page_size]] *= -1


KernelHostPool.backup_from_device_all_layer = damage
