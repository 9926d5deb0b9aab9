"""What the tests of the swap kernels run on, chosen once: `AUTELLIX_KERNELS_DEVICE`, ``cpu`` or ``cuda``."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

DEVICE = os.environ.get("AUTELLIX_KERNELS_DEVICE", "cpu")

# Triton looks when a kernel is defined. Without a GPU its kernels are interpreted.
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> str:
    """Where device pools are; without a GPU for ``cuda`` the tests are skipped."""
    import torch

    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU; run make gpu on a machine with one, or make kernels without")
    return DEVICE


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """Have the environment read in the test, and again after it."""
    from autellix_kernels import swap
    from autellix_kernels.settings import settings

    caches = (settings, swap._choice)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()
