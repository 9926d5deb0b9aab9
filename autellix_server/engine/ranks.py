"""Tensor parallelism on a CPU: how many ranks SGLang is asked for, and which cores each is given. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from autellix_server.engine.refusals import flags

THREADS_BIND = "SGLANG_CPU_OMP_THREADS_BIND"
"""Variable with the cores of every rank. SGLang has a default on machines with a NUMA node for each rank only, and
ends on others."""

_FLAGS = ("--tp-size", "--tensor-parallel-size")
_SHORTEST = "--tp"


def tensor_parallel_size(argv: Sequence[str]) -> int:
    """Return how many ranks the arguments for SGLang ask for, 1 or more.

    What is no number is left for SGLang to refuse.
    """
    values = [value for flag, value in flags(argv) if any(_names(name, flag) for name in _FLAGS)]
    numbers = [int(value) for value in values if value is not None and value.isdecimal()]
    return max([1, *numbers[-1:]])


def threads_bind(ranks: int, cores: Sequence[int]) -> str:
    """Return a value for `THREADS_BIND`: every rank gets its part of the cores, or shares one where there are too few.

    Args:
        ranks: 1 or more.
        cores: numbers of the cores there are; at least one.
    """
    bounds = [len(cores) * rank // ranks for rank in range(ranks + 1)]
    parts = [cores[start:end] or (cores[start % len(cores)],) for start, end in pairwise(bounds)]
    return "|".join(",".join(map(str, part)) for part in parts)


def _names(name: str, flag: str) -> bool:
    return len(flag) >= len(_SHORTEST) and name.startswith(flag)
