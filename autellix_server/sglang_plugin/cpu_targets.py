"""Every function of SGLang 0.5.23 that the compiled operations stand for, as the guard checks it."""

from __future__ import annotations

from dataclasses import dataclass

from autellix_server.sglang_plugin.guard import Target

_LAYERS = "sglang.srt.layers"
_NATIVE = f"{_LAYERS}.attention.torch_native_backend.TorchNativeAttnBackend"
_POOL = "sglang.srt.mem_cache.memory_pool"
_ATTENTION = ("self", "q", "k", "v", "layer", "forward_batch", "save_kv_cache")
_SET_KV = ("self", "layer", "loc_info", "cache_k", "cache_v", "k_scale", "v_scale", "layer_id_override", "dcp_kv_mask")

CPU_OPS_RELIED_ON = (
    Target(
        f"{_LAYERS}.layernorm.RMSNorm.forward_native",
        ("self", "x", "residual", "post_residual_addition", "quant_linear"),
        "44cb760bd8dca804",
    ),
    Target(f"{_LAYERS}.activation.SiluAndMul.forward_native", ("self", "x"), "14b495349c7e4f21"),
    Target(
        f"{_LAYERS}.rotary_embedding.base.RotaryEmbedding.forward_native",
        ("self", "positions", "query", "key", "offsets", "fused_set_kv_buffer_arg"),
        "2e5d856d6d4a395b",
    ),
    Target(
        f"{_LAYERS}.quantization.unquant.UnquantizedLinearMethod.apply",
        ("self", "layer", "x", "bias"),
        "0c43ec585f40ba2e",
    ),
    Target(
        f"{_LAYERS}.quantization.unquant.UnquantizedEmbeddingMethod.apply",
        ("self", "layer", "x", "bias"),
        "c4550eae43b34352",
    ),
    Target(
        f"{_LAYERS}.logits_processor.LogitsProcessor._compute_lm_head",
        ("self", "hidden_states", "lm_head", "embedding_bias", "out"),
        "c5062fc225cae30d",
    ),
    Target(f"{_NATIVE}.init_forward_metadata", ("self", "forward_batch"), "fa215b8a68bd83d9"),
    Target(f"{_NATIVE}.forward_extend", _ATTENTION, "9d94d3cc90d249c5"),
    Target(f"{_NATIVE}.forward_decode", _ATTENTION, "057e1386b8475474"),
    Target(f"{_POOL}.MHATokenToKVPool.get_key_buffer", ("self", "layer_id"), "ab5fc2d68e854c1d"),
    Target(f"{_POOL}.MHATokenToKVPool.set_kv_buffer", _SET_KV, "f5ac5415f0503888"),
    Target(
        f"{_LAYERS}.sampler.Sampler._sample_from_probs",
        ("self", "probs", "sampling_info", "positions", "simple_sampling_case"),
        "c90023f0fa9c16c7",
    ),
    Target(
        f"{_LAYERS}.sampler.top_k_top_p_min_p_sampling_from_probs_torch",
        (
            *("probs", "top_ks", "top_ps", "min_ps", "need_min_p_sampling", "sampling_seed", "positions"),
            *("return_filtered_probs", "max_top_k"),
        ),
        "4c8e67c1ecebd6b7",
    ),
)
"""Overridden, or computed in their stead. Checked by who loads a model; other processes never import them."""

_MODELS = "sglang.srt.models"
_LOGITS = f"{_LAYERS}.logits_processor"
_BOUNDARY = f"{_LAYERS}.layer_boundary"
_FORWARD = ("self", "input_ids", "positions", "forward_batch", "input_embeds", "pp_proxy_tensors")
_DRAW = ("self", "input_ids", "positions", "forward_batch", "input_embeds", "get_embedding", "pp_proxy_tensors")
_LAYER = ("self", "positions", "hidden_states", "forward_batch", "capture_output")
_ATTENTION_BLOCK = ("self", "positions", "hidden_states", "forward_batch")

_AROUND_LAYERS = (
    Target(
        f"{_LAYERS}.radix_attention.RadixAttention.forward",
        ("self", "q", "k", "v", "forward_batch", "save_kv_cache", "key_value_num_tokens", "kwargs"),
        "4ca2cac7fefcd32b",
    ),
    Target(
        f"{_BOUNDARY}.stage.StageBoundary._prepare",
        ("self", "hidden_states", "stream", "forward_batch", "steps", "call"),
        "545ac98ca1f6a032",
    ),
    Target(
        f"{_BOUNDARY}.stage.StageBoundary.finish",
        ("self", "hidden_states", "forward_batch", "update_context"),
        "b213ac14393c9973",
    ),
    Target(
        f"{_BOUNDARY}.residual.batch.final_norm",
        ("hidden_states", "forward_batch", "layernorm", "capture", "finalize_norm", "skip_empty", "read_kwargs"),
        "242e96d61e14bc1e",
    ),
    Target(f"{_LOGITS}.LogitsMetadata.from_forward_batch", ("forward_batch",), "68f57ba8e49d20cc"),
    Target(
        f"{_LOGITS}.LogitsProcessor.forward",
        (
            *("self", "input_ids", "hidden_states", "lm_head", "logits_metadata", "aux_hidden_states"),
            "hidden_states_before_norm",
        ),
        "cb0c03324bcc376d",
    ),
    Target(
        f"{_LOGITS}.LogitsProcessor._get_pruned_states",
        ("self", "hidden_states", "hidden_states_before_norm", "aux_hidden_states", "logits_metadata"),
        "fd309cf7f24f94fe",
    ),
    Target(
        f"{_LOGITS}.LogitsProcessor._get_hidden_states_to_store",
        (
            *("self", "hidden_states", "hidden_states_before_norm", "aux_hidden_states", "pruned_states"),
            *("pruned_states_before_norm", "aux_pruned_states", "sample_indices", "logits_metadata"),
        ),
        "471b7d078ce55e15",
    ),
)
"""What comes between the operations of a layer and after the last one, and which states it reads."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """A kind of model whose layers our operation computes.

    Attributes:
        stack: dotted name of the class that holds the layers, as `model`.
        layer: dotted name of theirs.
        targets: what these compute.
    """

    stack: str
    layer: str
    targets: tuple[Target, ...]


CPU_MODELS = {
    f"{_MODELS}.llama.LlamaForCausalLM.forward": Decoder(
        f"{_MODELS}.llama.LlamaModel",
        f"{_MODELS}.llama.LlamaDecoderLayer",
        (
            *_AROUND_LAYERS,
            Target(f"{_MODELS}.llama.LlamaForCausalLM.forward", _DRAW, "8f45f98f8561cc31"),
            Target(f"{_MODELS}.llama.LlamaModel.forward", _FORWARD, "d02b894a8afcbf3f"),
            Target(f"{_MODELS}.llama.LlamaDecoderLayer.forward", _LAYER, "6d3680dbd7256ed2"),
            Target(f"{_MODELS}.llama.LlamaAttention.forward", _ATTENTION_BLOCK, "232b19ff50081952"),
            Target(
                f"{_MODELS}.llama.LlamaAttention.forward_prepare_native",
                ("self", "positions", "hidden_states"),
                "eb09e68f522b40b5",
            ),
            Target(f"{_MODELS}.llama.LlamaMLP.forward", ("self", "x", "forward_batch"), "0ad4e3f4819bb3de"),
        ),
    ),
    f"{_MODELS}.qwen2.Qwen2ForCausalLM.forward": Decoder(
        f"{_MODELS}.qwen2.Qwen2Model",
        f"{_MODELS}.qwen2.Qwen2DecoderLayer",
        (
            *_AROUND_LAYERS,
            Target(f"{_MODELS}.qwen2.Qwen2ForCausalLM.forward", _DRAW, "6eadd73720fe48cf"),
            Target(f"{_MODELS}.qwen2.Qwen2Model.forward", _FORWARD, "2a5dfe1535ad52ee"),
            Target(f"{_MODELS}.qwen2.Qwen2DecoderLayer.forward", _LAYER, "6d3680dbd7256ed2"),
            Target(f"{_MODELS}.qwen2.Qwen2Attention.forward", _ATTENTION_BLOCK, "41849402eca60994"),
            Target(f"{_MODELS}.qwen2.Qwen2MLP.forward", ("self", "x", "forward_batch"), "dfdd1e264129a776"),
        ),
    ),
}
"""By the dotted name of the `forward` that a model's class has, its own or inherited."""
