"""Our attention backend for a CPU: one compiled operation for all sequences of a batch, prompts and decodes alike.

What it does not compute, sliding windows, models with an encoder, unusual heads and KV of another type, goes to
SGLang's own backend for a CPU, layer by layer.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

from autellix_server.cpu_ops.layer import Batch
from autellix_server.cpu_ops.library import CpuOps
from autellix_server.sglang_plugin.cpu_memory import LazyKvPool


class CpuAttention(TorchNativeAttnBackend):  # type: ignore[misc]
    """Attention over SGLang's paged KV cache, read where it lies.

    Args:
        runner: SGLang's `ModelRunner`.
        ops: operations on the model's type; `None`: there are none, SGLang's backend computes everything.

    Attributes:
        generates: whether the model draws tokens; others give its states, of whichever token.
        slots: int64 [tokens], where the KV of the batch's new tokens goes.
    """

    def __init__(self, runner: Any, ops: CpuOps | None) -> None:
        super().__init__(runner)
        self._ops = ops
        self._dtype = runner.dtype
        self.generates: bool = runner.is_generation
        pool = self.token_to_kv_pool
        self._pool_serves = (
            type(pool) in {MHATokenToKVPool, LazyKvPool}
            and pool.store_dtype is pool.dtype is self._dtype
            and not pool.is_quantized_kv_cache
            and not pool.use_hnd
        )
        self._serves: dict[int, bool] = {}

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Take from a batch what all its layers share."""
        super().init_forward_metadata(forward_batch)
        fresh = None if forward_batch.forward_mode.is_decode() else forward_batch.extend_seq_lens
        self._fresh = None if fresh is None else fresh.to(torch.int64)
        self._requests = forward_batch.req_pool_indices.to(torch.int64)
        self._lengths = forward_batch.seq_lens.to(torch.int64)
        self.slots = forward_batch.out_cache_loc.to(torch.int64)

    def batch(self) -> Batch:
        """Return where the KV of the batch's sequences lies, for as long as it is the batch."""
        table = self.req_to_token_pool.req_to_token
        fresh = None if self._fresh is None else self._fresh.data_ptr()
        sequences = self._requests.data_ptr(), self._lengths.data_ptr(), fresh, len(self._requests)
        return Batch(table.data_ptr(), table.stride(0), *sequences)

    def forward_extend(
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True
    ) -> torch.Tensor:
        """Return what new prompt tokens read, [tokens, heads * size], having kept their KV."""
        if self._is_served(layer, q, k, forward_batch):
            return self._attend(q, k, v, layer, save_kv_cache)
        return super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache)

    def forward_decode(
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True
    ) -> torch.Tensor:
        """Return what the next token of each sequence reads, [sequences, heads * size], having kept its KV."""
        if self._is_served(layer, q, k, forward_batch):
            return self._attend(q, k, v, layer, save_kv_cache)
        return super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache)

    def _is_served(self, layer: Any, q: torch.Tensor, k: torch.Tensor | None, forward_batch: Any) -> bool:
        serves = self._serves.get(layer.layer_id)
        if serves is None:
            serves = self._serves[layer.layer_id] = self.can_serve(layer)
        same_type = q.dtype is self._dtype and (k is None or k.dtype is self._dtype)
        return serves and same_type and forward_batch.encoder_lens is None

    def can_serve(self, layer: Any) -> bool:
        """Return whether the operation computes a layer's attention on tensors of the model's type."""
        size = layer.qk_head_dim
        return (
            self._ops is not None
            and self._pool_serves
            and size == layer.v_head_dim <= self._ops.max_head_size
            and size % self._ops.dot_step == 0
            and layer.tp_q_head_num // layer.tp_k_head_num <= self._ops.max_group
            and layer.sliding_window_size == -1
            and layer.attn_type == AttentionType.DECODER
            and not layer.is_cross_attention
        )

    def _attend(self, q: Any, k: Any, v: Any, layer: Any, save_kv_cache: bool) -> torch.Tensor:
        ops, pool = self._ops, self.token_to_kv_pool
        assert ops is not None
        # Asking for the buffers also waits for KV that is on its way from the host.
        keys, values = pool.get_key_buffer(layer.layer_id), pool.get_value_buffer(layer.layer_id)
        if save_kv_cache and k is not None:
            ops.scatter(_rows(k), self.slots, keys)
            ops.scatter(_rows(v), self.slots, values)
        return ops.attention(
            _rows(q.view(-1, layer.tp_q_head_num, layer.qk_head_dim)),
            *(keys, values),
            slots=self.req_to_token_pool.req_to_token,
            requests=self._requests,
            lengths=self._lengths,
            fresh=self._fresh,
            scale=layer.scaling,
        )


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Return [tokens, heads, size] with the heads of a token one after the other."""
    _, heads, size = x.stride()
    return x if size == 1 and heads == x.shape[2] else x.contiguous()
