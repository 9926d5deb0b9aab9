"""Decoder layers of the Llama kind, one compiled operation each.

What SGLang's Python does between the operations of a layer takes as long as a decode step's products do. Where a
model's layers are exactly what the operation computes, and a batch is plain, the loop over them is ours; everything
else goes SGLang's way, operation by operation, with the same results.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardMode
from sglang.srt.model_executor.forward_context import get_attn_backend
from sglang.srt.runtime_context import get_parallel

from autellix_server.cpu_ops.layer import Shape, Step, Weights
from autellix_server.cpu_ops.library import CpuOps
from autellix_server.sglang_plugin.cpu_attention import CpuAttention
from autellix_server.sglang_plugin.cpu_layers import Activation, CpuLinear, Norm, Rotation
from autellix_server.sglang_plugin.cpu_targets import CPU_MODELS
from autellix_server.sglang_plugin.guard import check_engine

logger = logging.getLogger(__name__)

_LINEARS = {QKVParallelLinear, RowParallelLinear, MergedColumnParallelLinear}


def join_layers(model: torch.nn.Module, ops: CpuOps, dtype: torch.dtype) -> None:
    """Have the layers of a model compute as one operation each, if it is of a kind that we know.

    Whether they can is looked at when it first computes: layers may be wrapped until then, for adapters say.

    Args:
        model: whose parts compute with `ops` already where they can, see `cpu_layers`.
        ops: operations on `dtype`.
        dtype: of the model.

    Raises:
        SystemExit: this is not the SGLang that was looked at.
    """
    forward = type(model).forward
    known = CPU_MODELS.get(f"{forward.__module__}.{forward.__qualname__}")
    if known is None:
        return
    check_engine(known.targets)
    stack: Any = model.model
    if _name(stack) == known.stack:
        stack.forward = JoinedLayers(model, known.layer, ops, dtype)


def _name(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


class JoinedLayers:
    """Stands for the `forward` of a model's decoder: embedding, layers and last norm.

    Args:
        model: the decoder is its `model`, and it draws from the states that this returns.
        layer: dotted name of the class that its layers are of.
        ops: operations on `dtype`.
        dtype: of the model.
    """

    def __init__(self, model: Any, layer: str, ops: CpuOps, dtype: torch.dtype) -> None:
        self._model, self._stack = model, model.model
        self._layer, self._ops, self._dtype = layer, ops, dtype
        self._otherwise = self._stack.forward
        self._plan: _Plan | None = None
        self._backend: Any = None

    def __call__(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: Any,
        input_embeds: torch.Tensor | None = None,
        pp_proxy_tensors: Any = None,
    ) -> Any:
        """Return the states of all tokens, [tokens, hidden]; of those that nobody reads, anything."""
        given = input_embeds is not None or pp_proxy_tensors is not None
        if given or not self._serves(positions, forward_batch):
            return self._otherwise(input_ids, positions, forward_batch, input_embeds, pp_proxy_tensors)
        assert self._plan is not None
        last = None
        if _only_last_are_read(forward_batch) and self._backend.generates:
            last = forward_batch.extend_seq_lens.cumsum(0) - 1
        residual = self._stack.embed_tokens(input_ids)
        branch = torch.empty_like(residual)
        self._plan.compute(self._backend, positions, residual, branch, last)
        if last is None:
            return self._stack.norm(branch, residual)[0]
        branch[last] = self._stack.norm(branch[: len(last)], residual[: len(last)])[0]
        return branch

    def _serves(self, positions: torch.Tensor, batch: Any) -> bool:
        backend = get_attn_backend()
        if backend is not self._backend:
            self._backend = backend
            self._plan = self._recognise(backend) if type(backend) is CpuAttention else None
            if self._plan is not None:
                logger.info("Compiled CPU operations compute %d layers as one each", len(self._plan.parts))
        return (
            self._plan is not None
            and not self._stack.layers_to_capture
            and _is_plain(batch)
            and positions.dim() == 1
            and positions.dtype is torch.int64
            and 0 < len(positions) == len(backend.slots) <= self._ops.max_linear_rows
        )

    def _recognise(self, backend: CpuAttention) -> _Plan | None:
        stack = self._stack
        alone = get_parallel().tp_size == 1 and stack.pp_group.world_size == 1
        ends = type(stack.embed_tokens) is VocabParallelEmbedding and type(stack.norm.forward) is Norm
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self._model.modules())  # noqa: SLF001
        if not alone or not ends or hooked or not all(self._is_served(layer, backend) for layer in stack.layers):
            return None
        return _Plan(self._ops, [_Parts.of(layer) for layer in stack.layers])

    def _is_served(self, layer: Any, backend: CpuAttention) -> bool:
        if _name(layer) != self._layer:
            return False
        attention, mlp = layer.self_attn, layer.mlp
        linears = attention.qkv_proj, attention.o_proj, mlp.gate_up_proj, mlp.down_proj
        norms = layer.input_layernorm, layer.post_attention_layernorm
        return (
            all(self._is_ours(linear) for linear in linears)
            and all(type(norm.forward) is Norm for norm in norms)
            and type(attention.rotary_emb.forward) is Rotation
            and type(mlp.act_fn.forward) is Activation
            and backend.can_serve(attention.attn)
        )

    def _is_ours(self, linear: Any) -> bool:
        return (
            type(linear) in _LINEARS
            and type(linear.quant_method) is CpuLinear
            and not linear.skip_bias_add
            and (linear.bias is None or linear.bias.dtype is self._dtype)
        )


def _is_plain(batch: Any) -> bool:
    """Return whether a batch is prompts or decodes and nothing else: no drafts, no encoder, no padding."""
    return (
        batch.forward_mode in (ForwardMode.EXTEND, ForwardMode.DECODE)
        and batch.spec_info is None
        and batch.encoder_lens is None
        and batch.global_num_tokens_cpu is None
    )


def _only_last_are_read(batch: Any) -> bool:
    """Return whether `LogitsProcessor` takes the last state of each prompt and leaves the others alone."""
    return (
        batch.forward_mode is ForwardMode.EXTEND
        and not batch.return_logprob
        and not batch.is_prefill_only
        and batch.capture_hidden_mode in (None, CaptureHiddenMode.NULL)
        and batch.token_indices_to_pool is None
        and batch.multi_item_delimiter_indices is None
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """A layer as the operation takes it.

    Attributes:
        number: by which the KV pool knows it.
        shape: its sizes.
        tensors: where SGLang keeps its weights, by their names in `Weights`: the dictionary of a module, and the key.
        weights: their addresses.
    """

    number: int
    shape: Shape
    tensors: dict[str, tuple[dict[str, Any], str]]
    weights: Weights

    @classmethod
    def of(cls, layer: Any) -> _Parts:
        attention, mlp = layer.self_attn, layer.mlp
        heads, rotation = attention.attn, attention.rotary_emb
        modules = {
            "input_norm": layer.input_layernorm,
            "qkv": attention.qkv_proj,
            "out": attention.o_proj,
            "post_norm": layer.post_attention_layernorm,
            "gate_up": mlp.gate_up_proj,
            "down": mlp.down_proj,
        }
        tensors = {name: (module._parameters, "weight") for name, module in modules.items()}  # noqa: SLF001
        tensors["rotation"] = rotation._buffers, "cos_sin_cache"  # noqa: SLF001
        for name, module in modules.items():
            if getattr(module, "bias", None) is not None:
                tensors[f"{name}_bias"] = module._parameters, "bias"  # noqa: SLF001
        hidden, inner = (module.weight.shape[1] for module in (attention.qkv_proj, mlp.down_proj))
        shape = Shape(
            *(hidden, heads.tp_q_head_num, heads.tp_k_head_num, heads.qk_head_dim, inner),
            *(rotation.rotary_dim, rotation.is_neox_style, rotation.cos_sin_cache.dtype is torch.float32),
            *(layer.input_layernorm.variance_epsilon, heads.scaling),
        )
        return cls(heads.layer_id, shape, tensors, Weights())


class _Plan:
    """The layers of a model.

    Args:
        ops: operations on the model's type.
        parts: the layers in order.
    """

    def __init__(self, ops: CpuOps, parts: list[_Parts]) -> None:
        self._ops = ops
        self.parts = parts
        self._places = [place for part in parts for place in part.tensors.values()]
        self._addresses: list[int] = []

    def compute(
        self,
        backend: CpuAttention,
        positions: torch.Tensor,
        residual: torch.Tensor,
        branch: torch.Tensor,
        last: torch.Tensor | None,
    ) -> None:
        """Compute all layers on the tokens of the batch that `backend` was told of; see `Step`."""
        self._follow_weights()
        pool = backend.token_to_kv_pool
        step = Step(residual.data_ptr(), branch.data_ptr(), positions.data_ptr(), backend.slots.data_ptr())
        step.batch, step.rows, step.first = backend.batch(), len(residual), 1
        for part in self.parts:
            if last is not None and part is self.parts[-1]:
                step.last = last.data_ptr()
            # Asking for the buffers also waits for KV that is on its way from the host.
            keys, values = pool.get_key_buffer(part.number), pool.get_value_buffer(part.number)
            self._ops.layer(part.shape, part.weights, step, keys, values)
            step.first = 0

    def _follow_weights(self) -> None:
        """Take note of weights that lie elsewhere than in the last step: a model's can be replaced as it runs."""
        addresses = [tensors[key].data_ptr() for tensors, key in self._places]
        if addresses == self._addresses:
            return
        self._addresses = addresses
        following = iter(addresses)
        for part in self.parts:
            for name in part.tensors:
                setattr(part.weights, name, next(following))
