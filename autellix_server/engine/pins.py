"""What the engine environments are made of: the versions the plugin was proved with, and what they cost."""

from __future__ import annotations

from pathlib import Path

SUPPORTED_PYTHON = ((3, 11), (3, 13))
"""First and last Python minor version that the whole engine set has wheels for."""

SGLANG_VERSION = "0.5.23"
SGLANG = f"sglang=={SGLANG_VERSION}"
TORCH_CPU_VERSION = "2.13.0"
CPU_WHEELS = (SGLANG, "outlines==0.1.11", "torchao==0.18.0")
"""Installed without what they ask for: their requirements name CUDA libraries that a CPU engine never loads."""

CUDA_WHEELS = (SGLANG, "accelerate", "hatchling", "editables")
"""SGLang with its own dependencies, and what converting a model and installing a checkout need on top."""

CPU_REQUIREMENTS = Path(__file__).with_name("requirements-cpu.txt")
CUDA_CONSTRAINTS = Path(__file__).with_name("constraints-cuda.txt")

DISK_GB = {"cpu": 4.0, "cuda": 20.0}
"""Free space asked for before a build starts; the CPU environment measures 2.6 GB when built, 2.9 GB after use."""


def python_supported(version: tuple[int, int]) -> bool:
    """Tell whether an engine environment can be built with Python `version` (major, minor)."""
    first, last = SUPPORTED_PYTHON
    return first <= version <= last


def supported_pythons() -> str:
    """Return the supported versions for messages, such as "3.11 to 3.13"."""
    return " to ".join(f"{major}.{minor}" for major, minor in SUPPORTED_PYTHON)
