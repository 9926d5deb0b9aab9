"""The CPU platform class; importing it imports SGLang."""

from __future__ import annotations

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import KVPoolKind, PlatformCapabilities, SRTPlatform


class AutellixCpuPlatform(CpuDeviceMixin, SRTPlatform):  # type: ignore[misc]
    """Plain PyTorch on the CPU. Everything the platform does not claim, SGLang does in torch-native code."""

    _enum = PlatformEnum.OOT
    capabilities = PlatformCapabilities()

    def get_default_attention_backend(self) -> str:
        """Return SGLang's scaled-dot-product backend, which needs no compiled kernels."""
        return "torch_native"

    def get_kv_pool_cls(self, *, kind: KVPoolKind) -> type | None:
        """Return a pool that takes memory as it fills, for ordinary attention."""
        if kind != "mha":
            return None
        from autellix_server.sglang_plugin.cpu_memory import LazyKvPool

        return LazyKvPool
