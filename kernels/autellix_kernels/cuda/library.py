"""The compiled kernels as functions; addresses and numbers go in, errors come out as exceptions."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autellix_kernels.cuda import build
from autellix_kernels.errors import KernelUnavailable, TransferFailed
from autellix_kernels.runs import Copies
from autellix_kernels.transfer import Direction, Geometry, Work

BLOCKS = 32
"""Blocks of 256 threads that copy rows; 512 KiB on their way are several times what a link takes in its latency."""

_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_SIGNATURES = {
    "autellix_swap_rows": (_POINTER, _INT, _INT, _INT, _POINTER),
    "autellix_swap_rows_on_host": (_POINTER, _INT, _INT),
    "autellix_copy_runs": (_POINTER, _POINTER, _POINTER, _SIZE, _INT, _POINTER),
    "autellix_copy_each": (_POINTER, _POINTER, _POINTER, _SIZE, _INT, _POINTER),
    "autellix_copy_runs_on_host": (_POINTER, _POINTER, _POINTER, _SIZE),
}


class Rows(ctypes.Structure):
    """`Rows` of ``rows.h``, whose comments say what the fields are."""

    _fields_ = (
        ("device_addresses", _POINTER),
        ("host", _POINTER),
        ("device_slots", _POINTER),
        ("host_slots", _POINTER),
        *((name, ctypes.c_int64) for name in ("count", "layers", "page_size", "row_bytes")),
        *((name, ctypes.c_int64) for name in ("device_stride", "page_stride", "token_stride", "layer_stride")),
    )


class SwapLibrary:
    """The compiled kernels. On a GPU they take their turn in its current stream, on a CPU they are done on return.

    Attributes:
        functions: those of ``swap.cu``.
        compiled_version: of the CUDA that they were compiled by, 12080 for 12.8.

    Args:
        file: what `build.build` made.
    """

    def __init__(self, file: Path) -> None:
        self._file, self.functions = file, ctypes.CDLL(str(file))
        self.functions.autellix_swap_error.restype = ctypes.c_char_p
        for name, signature in _SIGNATURES.items():
            getattr(self.functions, name).argtypes = signature
        self.compiled_version: int = self.functions.autellix_compiled_version()

    def refusal(self, device: torch.device, *, launches: bool) -> str | None:
        """Return why it cannot serve a GPU, with the remedy; `None` if it can.

        Args:
            device: the GPU.
            launches: not only the driver's copies are asked for but kernels, which need code for the GPU.
        """
        if reason := driver_refusal(self.compiled_version, self.functions.autellix_driver_version()):
            return f"{reason}, and delete {self._file}"
        return capability_refusal(torch.cuda.get_device_capability(device)) if launches else None

    def swap_rows(
        self,
        geometry: Geometry,
        device_addresses: Tensor,
        device_slots: Tensor,
        host_slots: Tensor,
        page_size: int,
        direction: Direction,
    ) -> None:
        """Copy the rows of a component.

        Args:
            geometry: of the component.
            device_addresses: int64 [layers] on the device, where the layers copied start.
            device_slots: int64 [count] on the device.
            host_slots: likewise.
            page_size: tokens in a page of the host.
            direction: which side is read.

        Raises:
            TransferFailed: CUDA has an error to report, perhaps of something earlier.
        """
        rows = Rows(
            device_addresses.data_ptr(),
            geometry.host_address,
            device_slots.data_ptr(),
            host_slots.data_ptr(),
            len(device_slots),
            len(device_addresses),
            page_size,
            geometry.row_bytes,
            geometry.device_stride,
            geometry.page_stride,
            geometry.token_stride,
            geometry.layer_stride,
        )
        arguments = (ctypes.addressof(rows), geometry.access, direction is Direction.OUT)
        device = device_slots.device
        if device.type == "cuda":
            with torch.cuda.device(device):
                stream = torch.cuda.current_stream(device).cuda_stream
                self._check(self.functions.autellix_swap_rows(*arguments, BLOCKS, stream))
        else:
            self._check(self.functions.autellix_swap_rows_on_host(*arguments))

    def copy_runs(self, copies: Copies, device: torch.device, direction: Direction, *, batched: bool = True) -> Work:
        """Copy runs of bytes between host memory and the device.

        Args:
            copies: what to copy; they depend on each other in no way.
            device: the one that takes part.
            direction: whether it is read.
            batched: in one call of the driver, else each in one of its own.

        Raises:
            TransferFailed: CUDA has an error to report, perhaps of something earlier.
        """
        columns = (copies.targets, copies.sources, copies.sizes)
        count = len(copies.sizes)
        arguments = (*(column.data_ptr() for column in columns), count)
        if device.type != "cuda":
            self._check(self.functions.autellix_copy_runs_on_host(*arguments))
        else:
            function = self.functions.autellix_copy_runs if batched else self.functions.autellix_copy_each
            with torch.cuda.device(device), _batch_stream(device) as stream:
                self._check(function(*arguments, direction is Direction.OUT, stream))
        return Work(launches=1 if batched else count, copies=count)

    def _check(self, error: int) -> None:
        if error:
            raise TransferFailed(f"CUDA: {self.functions.autellix_swap_error(error).decode()} ({error})")


@contextmanager
def _batch_stream(device: torch.device) -> Iterator[int]:
    """Give the handle of a stream for copies that take their turn in the current one.

    Batches are not allowed in the default stream: for that it is one beside it, which the default stream waits for even
    if the copies end in an error, as some may be on their way to memory that is then given back.
    """
    current = torch.cuda.current_stream(device)
    if current.cuda_stream:
        yield current.cuda_stream
        return
    side = _side_stream(device)
    side.wait_stream(current)
    try:
        yield side.cuda_stream
    finally:
        current.wait_stream(side)


@functools.cache
def _side_stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)


def load() -> SwapLibrary:
    """Return the kernels, compiled for this Python environment the first time that anybody asks.

    Raises:
        KernelUnavailable: there is no nvcc, or it failed, or its work cannot be kept or loaded; it is not tried again.
    """
    outcome = _loaded()
    if isinstance(outcome, str):
        raise KernelUnavailable(outcome)
    return outcome


@functools.cache
def _loaded() -> SwapLibrary | str:
    """Return the kernels, or why there are none."""
    file = build.library(Path(sys.prefix) / build.FOLDER)
    try:
        if not file.exists():
            nvcc = build.compiler()
            if nvcc is None:
                return "there is no nvcc; install CUDA's compiler, or let NVCC name it"
            if said := build.build(nvcc, file):
                return f"{nvcc} failed, and NVCC may name another: {build.first_error(said)}"
        return SwapLibrary(file)
    except OSError as error:
        return f"{file} cannot be made or loaded: {error}"


def driver_refusal(compiled: int, driver: int) -> str | None:
    """Return why a driver cannot run what a compiler made, with the remedy; `None` if it can.

    Args:
        compiled: version of CUDA that the compiler is of, 12080 for 12.8.
        driver: newest version that the driver knows, in the same way.
    """
    if driver // 1000 >= compiled // 1000:
        return None
    return (
        f"it was compiled by CUDA {_version(compiled)}, and the driver knows CUDA up to {_version(driver)}; "
        "install a newer driver, or let NVCC name an older compiler"
    )


def capability_refusal(capability: tuple[int, int]) -> str | None:
    """Return why there is no code for GPUs of a compute capability; `None` if there is."""
    first = build.ARCHITECTURES[0]
    if capability >= (int(first[:-1]), int(first[-1])):
        return None
    major, minor = capability
    return f"the GPU's compute capability is {major}.{minor}, and it is compiled for {first[:-1]}.{first[-1]} and later"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
