"""What a decoder layer is told, laid out in memory as `native/layer.h` reads it.

All addresses are those of contiguous tensors, which have to live until the call returns; ``T`` is the type of the
operations.
"""

from __future__ import annotations

import ctypes

_ADDRESS, _INT, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float


class Shape(ctypes.Structure):
    """The sizes of a layer.

    Fields:
        hidden: elements of a token's state.
        heads, kv_heads, head_size: query heads, heads of keys and values, elements of each.
        inner: elements between the two halves of the layer's second part.
        rotary: elements of a head that are turned.
        halves_apart: 1 where an element is turned with the one half of them further on, 0 with its neighbour.
        rotation_is_float: 1 where cosines and sines are float32, 0 for ``T``.
        epsilon: of both norms.
        scale: of the scores.
    """

    _fields_ = (
        *((name, _INT) for name in ("hidden", "heads", "kv_heads", "head_size", "inner")),
        *((name, _INT) for name in ("rotary", "halves_apart", "rotation_is_float")),
        *((name, _FLOAT) for name in ("epsilon", "scale")),
    )


class Weights(ctypes.Structure):
    """Addresses of a layer's weights: [outputs, inputs] of ``T`` each, biases [outputs] or `None`.

    Queries, keys and values lie one after the other in `qkv`, the gate and what it is for in `gate_up`. A row of
    `rotation` has half of `Shape.rotary` cosines, then the sines, for each position.
    """

    _fields_ = tuple(
        (name, _ADDRESS)
        for name in (
            *("input_norm", "qkv", "qkv_bias", "out", "out_bias"),
            *("post_norm", "gate_up", "gate_up_bias", "down", "down_bias", "rotation"),
        )
    )


class Batch(ctypes.Structure):
    """Where the KV of the sequences lies; see `CpuOps.attention`.

    Fields:
        table, table_stride: its `slots` and how far their rows lie apart.
        requests, lengths, fresh: as there; `fresh` is `None` for one new token each.
        sequences: how many.
    """

    _fields_ = (
        ("table", _ADDRESS),
        ("table_stride", _LONG),
        *((name, _ADDRESS) for name in ("requests", "lengths", "fresh")),
        ("sequences", _INT),
    )


class Step(ctypes.Structure):
    """The tokens that a layer computes.

    Fields:
        residual: [rows, hidden] of ``T``, the sum of all layers before; changed.
        branch: likewise, what is still to be added to it; read but by the first layer, and replaced.
        positions: int64 [rows].
        slots: int64 [rows], where their KV goes.
        batch: the sequences they belong to.
        last: int64 [sequences], the last row of each. Only these are computed to the end, and are then the first
            rows of `residual` and `branch`; the KV of all rows is kept. `None`: all rows are computed.
        rows: how many, at least 1.
        first: 1 for the first layer, which has nothing to add.
    """

    _fields_ = (
        *((name, _ADDRESS) for name in ("residual", "branch", "positions", "slots")),
        ("batch", Batch),
        ("last", _ADDRESS),
        *((name, _INT) for name in ("rows", "first")),
    )
