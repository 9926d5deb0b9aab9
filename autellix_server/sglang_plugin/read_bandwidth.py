"""How fast all cores together read memory. Run by the engine's Python, see `engine_bench/bandwidth.py`.

Several ways to read all of a buffer, each as often as fits into its time. The fastest pass of the fastest way counts:
whatever disturbs takes time, and a floor under the time of a decode step must not be too high.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch

BUFFER_BYTES = 512 * 2**20
"""Far more than any cache of the last level that one machine's cores share."""

WAY_S = 1.5
"""Seconds for each way."""


def main() -> None:
    """Measure and print one line of JSON."""
    buffer = torch.ones(BUFFER_BYTES // 4)
    halves = buffer.chunk(2)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "sum of float32": buffer.sum,
        "sum of int64": buffer.view(torch.int64).sum,
        "product of two float32 vectors": lambda: torch.dot(*halves),
    }
    speeds = {name: BUFFER_BYTES / _fastest_s(way) for name, way in ways.items()}
    best = max(speeds, key=lambda name: speeds[name])
    print(json.dumps({"bytes_per_s": speeds[best], "way": best, "threads": torch.get_num_threads()}))


def _fastest_s(way: Callable[[], torch.Tensor]) -> float:
    fastest, until = float("inf"), time.perf_counter() + WAY_S
    while (began := time.perf_counter()) < until:
        way()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


if __name__ == "__main__":
    main()
