"""The CPU platform class. SGLang imports it while being imported itself, so what needs SGLang waits for a call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sglang.srt.arg_groups.choices import add_attention_backend_choices
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import KVPoolKind, PlatformCapabilities, SRTPlatform

from autellix_server.sglang_plugin.cpu_library import ops_for, switched_off

if TYPE_CHECKING:
    import torch

ATTENTION_BACKEND = "autellix_cpu"
"""Name of our attention backend in SGLang's registry."""

OVERLAP = "AUTELLIX_CPU_OVERLAP"
"""Variable that is ``on`` for an engine that is to prepare a step while the one before it computes, as on a GPU."""

add_attention_backend_choices([ATTENTION_BACKEND])


class AutellixCpuPlatform(CpuDeviceMixin, SRTPlatform):  # type: ignore[misc]
    """Any CPU: our compiled operations where they serve, PyTorch's for the rest. No CUDA libraries."""

    _enum = PlatformEnum.OOT
    capabilities = PlatformCapabilities()

    def get_default_attention_backend(self) -> str:
        """Return our backend, which without compiled operations is SGLang's own for a CPU."""
        return ATTENTION_BACKEND

    def apply_server_args_defaults(self, server_args: Any) -> None:
        """Set what SGLang does not know of a CPU: steps are neither captured in graphs nor overlapped.

        A CPU computes a step while it is launched. What overlapping does there is to hold each token back for a step.
        """
        if server_args.attention_backend == ATTENTION_BACKEND:
            server_args.disable_cuda_graph = True
        if not switched_off() and os.environ.get(OVERLAP) != "on":
            server_args.disable_overlap_schedule = True

    def init_backend(self) -> None:
        """Register our attention backend and sampler in a process that runs a model."""
        import torch
        from sglang.srt.layers.attention.attention_registry import register_attention_backend
        from sglang.srt.layers.sampler import register_sampler_backend

        from autellix_server.sglang_plugin.cpu_sampler import CpuSampler

        def attention(runner: Any) -> Any:
            from autellix_server.sglang_plugin.cpu_attention import CpuAttention

            return CpuAttention(runner, ops_for(runner.dtype))

        register_attention_backend(ATTENTION_BACKEND)(attention)
        if (ops := ops_for(torch.float32)) is not None:
            register_sampler_backend("pytorch", lambda: CpuSampler(ops))

    def post_load_model(self, model: torch.nn.Module) -> None:
        """Have the model's layers compute with the compiled operations."""
        if switched_off():
            return
        from autellix_server.sglang_plugin.cpu_layers import refuse_capped_attention, speed_up
        from autellix_server.sglang_plugin.cpu_model import join_layers

        refuse_capped_attention(model)
        dtype = next(model.parameters()).dtype
        if (ops := ops_for(dtype)) is not None:
            speed_up(model, ops, dtype)
            join_layers(model, ops, dtype)

    def get_kv_pool_cls(self, *, kind: KVPoolKind) -> type | None:
        """Return a pool that takes memory as it fills, for ordinary attention."""
        if kind != "mha" or switched_off():
            return None
        from autellix_server.sglang_plugin.cpu_memory import LazyKvPool

        return LazyKvPool
