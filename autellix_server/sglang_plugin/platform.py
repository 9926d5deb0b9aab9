"""An out-of-tree SGLang platform for any Linux CPU: no CUDA libraries, no kernels of SGLang's.

SGLang calls `activate` in every process and, when it returns a class, prefers that class to every platform of its own.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from enum import Enum
from types import ModuleType

_PLATFORM_CLASS = "autellix_server.sglang_plugin.cpu.AutellixCpuPlatform"


def on_cpu() -> bool:
    """Return whether the engine computes on a CPU: ``AUTELLIX_CPU`` is ``1``."""
    return os.environ.get("AUTELLIX_CPU") == "1"


def activate() -> str | None:
    """Return the platform class to use, or `None`, having touched nothing, unless `on_cpu`."""
    if not on_cpu():
        return None
    if importlib.util.find_spec("torchvision") is None:
        _install_torchvision_stand_in()
    return _PLATFORM_CLASS


def _install_torchvision_stand_in() -> None:
    """Provide the one name that importing SGLang takes from torchvision, for which there is no CPU build to install.

    transformers must have concluded that torchvision is missing before the stand-in appears: it would otherwise offer
    image processors that need the real one.
    """
    import transformers.image_utils
    import transformers.models.auto.processing_auto  # noqa: F401  (both decide at import whether torchvision is there)

    class InterpolationMode(Enum):
        NEAREST = "nearest"
        NEAREST_EXACT = "nearest-exact"
        BILINEAR = "bilinear"
        BICUBIC = "bicubic"
        BOX = "box"
        HAMMING = "hamming"
        LANCZOS = "lanczos"

    torchvision, transforms, functional = (
        ModuleType(name) for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    )
    for module in (torchvision, transforms, functional):
        module.__spec__ = importlib.util.spec_from_loader(module.__name__, loader=None)
        sys.modules[module.__name__] = module
    vars(functional).update(InterpolationMode=InterpolationMode)
    vars(transforms).update(InterpolationMode=InterpolationMode, functional=functional)
    vars(torchvision).update(transforms=transforms, __version__="0.0.0")
