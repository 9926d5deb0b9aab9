"""What the tests of the swap kernels run on, chosen once: `AUTELLIX_KERNELS_DEVICE`, ``cpu`` or ``cuda``."""

from __future__ import annotations

import os

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
