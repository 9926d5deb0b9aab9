"""Errors of the swap kernels, printed as a tree. Whatever is refused is refused before anything is copied.

```
AutellixError                  (autellix_sdk.errors)
└── SwapError
    ├── SwapRefused
    │   ├── WrongDevice        a buffer or a list of slots is on a device where it cannot be
    │   ├── UnpinnedMemory     host memory that a GPU cannot reach
    │   ├── LayoutMismatch     pools whose types, shapes or layouts do not fit each other
    │   ├── SlotError          a list of slots that cannot be served
    │   │   ├── RaggedLists    the lists differ in length
    │   │   ├── SlotOutOfRange a slot that a pool does not have
    │   │   └── DuplicateSlot  a slot that stands twice in a list
    │   └── KernelUnavailable  the implementation asked for cannot run here, or is none that there is
    └── TransferFailed         CUDA reported an error; the slots that were to be written hold anything
```
"""

from __future__ import annotations

from autellix_sdk.errors import AutellixError


class SwapError(AutellixError):
    """A swap did not happen as asked."""


class SwapRefused(SwapError):
    """A swap was refused; neither pool has been touched."""


class TransferFailed(SwapError):
    """CUDA reported an error, of this swap or of something before it; the slots to be written hold anything."""


class WrongDevice(SwapRefused):
    """A buffer or a list of slots is on a device where it cannot be."""


class UnpinnedMemory(SwapRefused):
    """Host memory that a GPU cannot reach, because it is not pinned."""


class LayoutMismatch(SwapRefused):
    """Pools whose types, shapes or layouts do not fit each other, or what is said about them."""


class SlotError(SwapRefused):
    """A list of slots that cannot be served."""


class RaggedLists(SlotError):
    """The lists of device and host slots differ in length."""


class SlotOutOfRange(SlotError):
    """A slot that a pool does not have."""


class DuplicateSlot(SlotError):
    """A slot that stands twice in a list: which of two tokens' KV it has afterwards would be chance."""


class KernelUnavailable(SwapRefused):
    """The implementation asked for cannot run here, or is none that there is."""
