"""Which compiled operations this engine process has."""

from __future__ import annotations

import functools
import logging
import os
import sys
from pathlib import Path

import torch

from autellix_server.cpu_ops.build import FOLDER, SWITCH, cpu_features, library
from autellix_server.cpu_ops.library import CpuOps

logger = logging.getLogger(__name__)


def switched_off() -> bool:
    """Return whether this engine is to be SGLang as it is shipped."""
    return os.environ.get(SWITCH) == "off"


@functools.cache
def ops_for(dtype: torch.dtype) -> CpuOps | None:
    """Return the operations for tensors of a type; `None` where there are none, which the log says if it is a fault."""
    if dtype not in {torch.float32, torch.bfloat16} or switched_off():
        return None
    file = library(Path(sys.prefix) / FOLDER)
    try:
        ops = CpuOps(file, str(dtype).removeprefix("torch."), torch.get_num_threads())
    except OSError as error:
        logger.warning(
            "No compiled CPU operations (%s): computing with PyTorch's, several times slower. With a C++ compiler, "
            "`autellix engine install --device cpu` compiles them.",
            error,
        )
        return None
    if "amx_bf16" in cpu_features() and not ops.has_matrices:
        logger.warning(
            "The system does not let this process use the CPU's units for matrices (AMX): prompts take longer"
        )
    return ops
