"""What operators may say about swaps, read from the environment once."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from autellix_kernels.select import SWITCH
from autellix_sdk.errors import ConfigurationError

DEBUG = "AUTELLIX_SWAP_DEBUG"
"""Variable that is ``1`` to have lists of slots searched for duplicates before every swap."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says.

    Attributes:
        kernel: name of the kernel to use, `None` to have one chosen.
        debug: look for duplicates.
    """

    kernel: str | None = None
    debug: bool = False

    @classmethod
    def from_environment(cls, kernels: Collection[str], environ: Mapping[str, str] = os.environ) -> Settings:
        """Return what is set.

        Args:
            kernels: names that there are.
            environ: read for `SWITCH` and `DEBUG`; what is empty is not set.

        Raises:
            ConfigurationError: a value has no meaning.
        """
        kernel, debug = environ.get(SWITCH) or None, environ.get(DEBUG) or "0"
        if kernel is not None and kernel not in kernels:
            raise ConfigurationError(f"{SWITCH} is {kernel}; unset it, or choose one of: {', '.join(kernels)}")
        if debug not in {"0", "1"}:
            raise ConfigurationError(f"{DEBUG} is {debug}; it has to be 0 or 1")
        return cls(kernel, debug == "1")


@functools.cache
def settings(kernels: tuple[str, ...]) -> Settings:
    """Return what the environment said when this was first asked for."""
    return Settings.from_environment(kernels)
