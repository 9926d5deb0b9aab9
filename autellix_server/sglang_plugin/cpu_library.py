"""Which compiled operations this engine process has."""

from __future__ import annotations

import functools
import logging
import os
import sys
from pathlib import Path

import torch

from autellix_server.cpu_ops.build import FOLDER, library
from autellix_server.cpu_ops.library import CpuOps

SWITCH = "AUTELLIX_CPU_OPS"
"""Variable that is ``off`` for an engine that is to compute with PyTorch's operations alone, for comparison."""

logger = logging.getLogger(__name__)


@functools.cache
def built() -> bool:
    """Return whether there are compiled operations to use; says so in the log where there should be."""
    if os.environ.get(SWITCH) == "off":
        return False
    file = library(Path(sys.prefix) / FOLDER)
    if not file.exists():
        logger.warning(
            "There are no compiled CPU operations for this machine (%s): computing with PyTorch's, several times "
            "slower. Install a C++ compiler, then run `autellix engine install --device cpu`.",
            file.name,
        )
    return file.exists()


@functools.cache
def ops_for(dtype: torch.dtype) -> CpuOps | None:
    """Return the operations for tensors of a type, `None` where there are none."""
    if dtype not in {torch.float32, torch.bfloat16} or not built():
        return None
    return CpuOps(library(Path(sys.prefix) / FOLDER), str(dtype).removeprefix("torch."), torch.get_num_threads())
