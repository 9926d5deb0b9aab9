"""Layers of a model that compute with the compiled operations.

Each layer is looked at once, when the model is loaded. What it is asked later and the operations cannot do (other
shapes or types, arguments that other devices use) is computed as SGLang would have.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import torch
from sglang.srt.layers.activation import SiluAndMul
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.quantization.unquant import UnquantizedEmbeddingMethod, UnquantizedLinearMethod
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
from torch.nn.functional import linear

from autellix_server.cpu_ops.library import CpuOps
from autellix_server.sglang_plugin.cpu_targets import CPU_OPS_RELIED_ON
from autellix_server.sglang_plugin.guard import check_engine, refuse

logger = logging.getLogger(__name__)


def speed_up(model: torch.nn.Module, ops: CpuOps, dtype: torch.dtype) -> None:
    """Have the layers of a loaded model compute with `ops` wherever they can, and say in the log how many do.

    Args:
        model: whose layers are changed in place.
        ops: operations on `dtype`.
        dtype: of the model.

    Raises:
        SystemExit: this is not the SGLang that the operations were written for.
    """
    check_engine(CPU_OPS_RELIED_ON)
    # SGLang looks at this only for an output layer whose way to compute is its own.
    in_float32 = any(getattr(module, "use_fp32_lm_head", False) for module in model.modules())
    faster = _Faster(ops, dtype, output_layer=not in_float32)
    served = Counter(type(module).__name__ for module in model.modules() if faster.take(module))
    logger.info("Compiled CPU operations compute %s", ", ".join(f"{count} {name}" for name, count in served.items()))


def _is_plain_rotation(module: Any) -> bool:
    kind = type(module)
    return (
        isinstance(module, RotaryEmbedding)
        and kind.forward is RotaryEmbedding.forward
        and kind.forward_native is RotaryEmbedding.forward_native
    )


def refuse_capped_attention(model: torch.nn.Module) -> None:
    """End this process if the model caps its attention scores: SGLang's attention on a CPU would leave that out."""
    if any(isinstance(module, RadixAttention) and (module.logit_cap or 0) > 0 for module in model.modules()):
        refuse(
            "this model caps its attention scores (attn_logit_softcapping), which no attention backend for a CPU "
            "computes: serve it on a GPU, or serve another model"
        )


class _Faster:
    def __init__(self, ops: CpuOps, dtype: torch.dtype, *, output_layer: bool) -> None:
        self._ops = ops
        self._dtype = dtype
        self._output_layer = output_layer
        product = Product(ops, dtype)
        self._linear, self._embedding = CpuLinear(product), CpuEmbedding(product)

    def take(self, module: Any) -> bool:
        """Change a module if the operations can serve it; return whether they do."""
        method = type(getattr(module, "quant_method", None))
        if method is UnquantizedLinearMethod and self._weight_serves(module.weight):
            module.quant_method = self._linear
        elif method is UnquantizedEmbeddingMethod and self._output_layer and self._weight_serves(module.weight):
            module.quant_method = self._embedding
        elif self._is_plain_norm(module):
            module.forward = Norm(module, self._ops, self._dtype)
        elif type(module) is SiluAndMul:
            module.forward = Activation(module, self._ops, self._dtype)
        elif _is_plain_rotation(module):
            module.forward = Rotation(module, self._ops, self._dtype)
        else:
            return False
        return True

    def _weight_serves(self, weight: torch.Tensor) -> bool:
        return (
            weight.dim() == 2
            and weight.is_contiguous()
            and weight.dtype is self._dtype
            and weight.shape[1] % self._ops.dot_step == 0
        )

    def _is_plain_norm(self, module: Any) -> bool:
        return (
            type(module) is RMSNorm
            and module.has_weight
            and module.weight.dtype is self._dtype
            and module.hidden_size % self._ops.lanes == 0
            and module.hidden_size <= self._ops.max_norm_width
            and module.variance_size_override is None
            and module.override_orig_dtype is None
            and not module.cast_x_before_out_mul
            and not module.fp32_residual
        )


class Product:
    """``x @ weight.T + bias`` by whoever is faster."""

    def __init__(self, ops: CpuOps, dtype: torch.dtype) -> None:
        self._ops, self._dtype = ops, dtype

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return [rows, outputs] of [rows, inputs], [outputs, inputs] and [outputs]."""
        if x.dim() == 2 and x.shape[0] <= self._ops.max_linear_rows and x.dtype is self._dtype and x.stride(1) == 1:
            return self._ops.linear(x, weight, bias)
        return linear(x, weight, bias)


class CpuLinear(UnquantizedLinearMethod):  # type: ignore[misc]
    """How an unquantized linear layer computes."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self._product = product

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return the product of `x` with the layer's weight."""
        return self._product(x, layer.weight, bias)


class CpuEmbedding(UnquantizedEmbeddingMethod):  # type: ignore[misc]
    """How the output layer computes; it may be the input's as well, which looks its rows up as ever."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self._product = product

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return the product of `x` with the layer's weight, in the weight's type."""
        return self._product(x.to(layer.weight.dtype), layer.weight, bias)


class _Forward:
    """Stands for a module's `forward`: a plain object, so that the module does not become its own child."""

    def __init__(self, module: Any, ops: CpuOps, dtype: torch.dtype) -> None:
        self._module, self._ops, self._dtype = module, ops, dtype
        self._otherwise = module.forward

    def _is_plain(self, x: torch.Tensor) -> bool:
        return x.dim() == 2 and x.dtype is self._dtype and x.stride(1) == 1


class Norm(_Forward):
    """`RMSNorm.forward`; a residual is changed in place, as it is on a GPU."""

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor | None = None, *rest: Any, **options: Any
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return the norm, with a residual also the sum that it is the norm of."""
        addition = rest[0] if rest else options.get("post_residual_addition")
        plain = self._is_plain(x) and addition is None and x.shape[1] == self._module.hidden_size
        if not plain or not (residual is None or (residual.is_contiguous() and residual.dtype is self._dtype)):
            return self._otherwise(x, residual, *rest, **options)
        module = self._module
        out = self._ops.rms_norm(x, residual, module.weight, module.variance_epsilon)
        return out if residual is None else (out, residual)


class Activation(_Forward):
    """`SiluAndMul.forward`."""

    def __call__(self, x: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        """Return the activated half of the columns times the other half."""
        if not self._is_plain(x) or x.shape[1] % (2 * self._ops.lanes) or rest or options:
            return self._otherwise(x, *rest, **options)
        return self._ops.silu_and_mul(x)


class Rotation(_Forward):
    """`RotaryEmbedding.forward`; queries and keys are turned in place, as they are on a GPU."""

    def __call__(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the queries and keys, turned by their positions."""
        module = self._module
        served = not rest and not options and positions.dim() == 1 and key is not None
        if not (served and self._is_plain(query) and self._is_plain(key)):
            return self._otherwise(positions, query, key, *rest, **options)  # type: ignore[no-any-return]
        for x in (query, key):
            self._ops.rotate(
                positions, x, module.head_size, module.cos_sin_cache, module.rotary_dim, module.is_neox_style
            )
        return query, key
