"""Every function of SGLang 0.5.23 that the compiled operations stand for, as the guard checks it."""

from __future__ import annotations

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
