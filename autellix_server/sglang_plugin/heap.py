"""Memory that a process took for its start alone."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Return what the C library holds but nobody uses to the machine, where the C library can (glibc).

    Once, when a process is ready: tokenizers and weights are read through copies many times their size.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
