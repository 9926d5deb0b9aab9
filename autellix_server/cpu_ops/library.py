"""The compiled operations as functions of tensors.

Nothing is checked on a call, which has to cost microseconds: `sglang_plugin.cpu_layers` and `cpu_attention` decide once
for each layer whether an operation can serve it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autellix_server.cpu_ops.layer import Shape, Step, Weights

if TYPE_CHECKING:
    from torch import Tensor

_POINTER, _INT, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float

_SIGNATURES = {
    "linear": (_POINTER, _LONG, _POINTER, _POINTER, _POINTER, _INT, _INT, _INT),
    "rms_norm": (_POINTER, _LONG, _POINTER, _POINTER, _FLOAT, _POINTER, _INT, _INT),
    "silu_and_mul": (_POINTER, _LONG, _POINTER, _INT, _INT),
    "rotate": (_POINTER, _POINTER, _LONG, _INT, _INT, _POINTER, _INT, _INT, _INT, _INT),
    "attention": (
        *(_POINTER, _LONG, _POINTER, _POINTER, _POINTER),
        *(_POINTER, _LONG, _POINTER, _POINTER, _POINTER, _INT),
        *(_INT, _INT, _INT, _FLOAT),
    ),
    "layer": (*(ctypes.POINTER(structure) for structure in (Shape, Weights, Step)), _POINTER, _POINTER),
}


class CpuOps:
    """The operations for one element type.

    Attributes:
        has_matrices: the units for matrices (AMX) compute products of bfloat16; the kernel may refuse them.
        lanes: floats that the machine computes at a time; norms, activations and heads have a multiple of it.
        dot_step: elements that a dot product takes at a time; the inputs of a linear layer are a multiple of it, and
            so is a head's size.
        max_linear_rows: rows up to which `linear` is faster than PyTorch's product.
        max_norm_width: elements that a row of `rms_norm` may have.
        max_head_size: elements that a head of `attention` may have.
        max_group: query heads of `attention` that may share a KV head.

    Args:
        library: file that `build.build` made.
        dtype: ``float32`` or ``bfloat16``.
        threads: how many compute, the calling one included.
    """

    def __init__(self, library: Path, dtype: str, threads: int) -> None:
        functions = ctypes.CDLL(str(library))
        functions.autellix_threads(threads)
        self.has_matrices = bool(functions.autellix_has_matrices())
        self.lanes: int = functions.autellix_lanes()
        self.max_linear_rows: int = getattr(functions, f"autellix_max_linear_rows_{dtype}")()
        self.max_norm_width: int = functions.autellix_max_norm_width()
        self.max_head_size: int = functions.autellix_max_head_size()
        self.max_group: int = functions.autellix_max_group()
        self.dot_step = self.lanes * (2 if dtype == "bfloat16" else 1)
        self._linear, self._rms_norm, self._silu_and_mul, self._rotate, self._attention, self._layer = (
            _function(functions, f"autellix_{name}_{dtype}", signature) for name, signature in _SIGNATURES.items()
        )
        self._scatter = _function(functions, "autellix_scatter", (_POINTER, _LONG, _POINTER, _POINTER, _LONG, _INT))
        self._sample = _function(functions, "autellix_sample", (_POINTER, _LONG, *(_POINTER,) * 5, _INT, _INT))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``x @ weight.T + bias``: [rows, inputs], [outputs, inputs], [outputs] make [rows, outputs]."""
        rows, inputs = x.shape
        outputs = weight.shape[0]
        y = x.new_empty((rows, outputs))
        b = None if bias is None else bias.data_ptr()
        self._linear(x.data_ptr(), x.stride(0), weight.data_ptr(), b, y.data_ptr(), rows, outputs, inputs)
        return y

    def rms_norm(self, x: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """Return the norm of ``x``, or of ``x + residual``, which the residual becomes: [rows, width] all."""
        rows, width = x.shape
        out = x.new_empty((rows, width))
        rest = None if residual is None else residual.data_ptr()
        self._rms_norm(x.data_ptr(), x.stride(0), rest, weight.data_ptr(), epsilon, out.data_ptr(), rows, width)
        return out

    def silu_and_mul(self, x: Tensor) -> Tensor:
        """Return ``silu(x[:, :width]) * x[:, width:]``: [rows, 2 * width] makes [rows, width]."""
        rows, double = x.shape
        out = x.new_empty((rows, double // 2))
        self._silu_and_mul(x.data_ptr(), x.stride(0), out.data_ptr(), rows, double // 2)
        return out

    def rotate(
        self, positions: Tensor, x: Tensor, head_size: int, cache: Tensor, rotary: int, halves_apart: bool
    ) -> None:
        """Turn the heads of ``x`` [rows, heads * head_size] in place by their positions [rows] in ``cache``."""
        rows, width = x.shape
        self._rotate(
            *(positions.data_ptr(), x.data_ptr(), x.stride(0), width // head_size, head_size),
            *(cache.data_ptr(), cache.element_size() == 4, rotary, halves_apart, rows),
        )

    def scatter(self, x: Tensor, slots: Tensor, cache: Tensor) -> None:
        """Copy rows ``x`` [rows, heads, size] to ``cache[slots]``, whose elements have the same type."""
        size = x.element_size()
        self._scatter(
            *(x.data_ptr(), x.stride(0) * size, slots.data_ptr(), cache.data_ptr(), cache.stride(0) * size, x.shape[0])
        )

    def attention(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        slots: Tensor,
        requests: Tensor,
        lengths: Tensor,
        fresh: Tensor | None,
        scale: float,
    ) -> Tensor:
        """Return causal attention [tokens, query heads * size] of ``query`` [tokens, query heads, size].

        Args:
            query: the new tokens of all sequences, one after the other.
            keys: the KV cache, [slots, KV heads, size].
            values: likewise.
            slots: int32 [requests, positions], where the KV of each position lies.
            requests: int64 [sequences], their rows of ``slots``.
            lengths: int64 [sequences], tokens with KV, the new ones included.
            fresh: int64 [sequences], new tokens of each; `None` for one each.
            scale: of the scores.
        """
        tokens, heads, size = query.shape
        out = query.new_empty((tokens, heads * size))
        self._attention(
            *(query.data_ptr(), query.stride(0), keys.data_ptr(), values.data_ptr(), out.data_ptr()),
            *(slots.data_ptr(), slots.stride(0), requests.data_ptr(), lengths.data_ptr()),
            *(None if fresh is None else fresh.data_ptr(), requests.shape[0], heads, keys.shape[1], size, scale),
        )
        return out

    def layer(self, shape: Shape, weights: Weights, step: Step, keys: Tensor, values: Tensor) -> None:
        """Compute one decoder layer: these operations one after the other, on the same numbers.

        Args:
            shape: its sizes, within the limits above.
            weights: its own.
            step: the tokens, changed as it says.
            keys: the layer's KV cache, [slots, KV heads, size]; that of the tokens is added.
            values: likewise.
        """
        self._layer(shape, weights, step, keys.data_ptr(), values.data_ptr())

    def sample(
        self, probs: Tensor, uniforms: Tensor, top_ks: Tensor | None, top_ps: Tensor | None, min_ps: Tensor | None
    ) -> Tensor:
        """Draw a token from each row of float32 probabilities [rows, vocabulary], which need not add up to 1.

        Args:
            probs: the rows.
            uniforms: float32 [rows], in [0, 1), what the draws depend on.
            top_ks: int32 [rows], draw among this many most probable tokens.
            top_ps: float32 [rows], draw among tokens as long as the more probable ones have no more than this.
            min_ps: float32 [rows], draw among tokens with this share of the highest probability.

        Returns:
            int32 [rows].
        """
        rows, vocabulary = probs.shape
        tokens = uniforms.int()
        limits = [None if limit is None else limit.data_ptr() for limit in (top_ks, top_ps, min_ps)]
        self._sample(
            probs.data_ptr(), probs.stride(0), uniforms.data_ptr(), *limits, tokens.data_ptr(), rows, vocabulary
        )
        return tokens


def _function(library: ctypes.CDLL, name: str, signature: tuple[Any, ...]) -> Callable[..., None]:
    function = getattr(library, name)
    function.argtypes, function.restype = signature, None
    return function  # type: ignore[no-any-return]
