"""How the driver is asked to copy, by sources compiled for several versions of CUDA; a fake driver copies."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from autellix_kernels.cuda import build
from autellix_kernels.cuda.library import SwapLibrary, capability_refusal, driver_refusal, load

from tests.kernels.test_cuda import STRICT

HERE = Path(__file__).parent
FIRST_WITH_BATCHES = 12080


def compiled(version: int, folder: Path) -> SwapLibrary:
    """Return the kernels as CUDA of a version would have them, without a warning."""
    nvcc = build.compiler()
    if nvcc is None:
        pytest.skip("there is no nvcc")
    if version >= FIRST_WITH_BATCHES > load().compiled_version:
        pytest.skip("nvcc is older than CUDA 12.8, the first with batches")
    file = folder / f"as-{version}.so"
    fake = ["-include", str(HERE / "fake_driver.h"), f"-DAS_VERSION={version}"]
    assert build.build(nvcc, file, more=[*STRICT, *fake]) is None
    return SwapLibrary(file)


def copied(library: SwapLibrary, driver: int, runs: int) -> tuple[int, int]:
    """Have runs of three bytes copied, with gaps between them; return how many batches and single copies it took."""
    counters = {name: ctypes.c_int.in_dll(library.functions, f"fake_{name}") for name in ("batches", "singles")}
    for counter in counters.values():
        counter.value = 0
    ctypes.c_int.in_dll(library.functions, "fake_driver").value = driver
    source = torch.arange(1, 4 * runs + 1, dtype=torch.uint8)
    target = torch.zeros_like(source)
    starts, sizes = 4 * torch.arange(runs), torch.full((runs,), 3)
    columns = (target.data_ptr() + starts, source.data_ptr() + starts, sizes)
    assert library.functions.autellix_copy_runs(*(column.data_ptr() for column in columns), runs, 1, None) == 0
    expected = source.reshape(runs, 4).clone()
    expected[:, 3] = 0
    assert torch.equal(target, expected.flatten())
    return counters["batches"].value, counters["singles"].value


@pytest.mark.parametrize("version", [12060, 12080, 13000])
def test_runs_are_one_call_where_compiler_and_driver_have_one(version: int, tmp_path: Path) -> None:
    """With the parameters that CUDA has in that version; else, and for a single run, each is a call of its own."""
    library = compiled(version, tmp_path)
    assert library.compiled_version == version
    several = (1, 0) if version >= FIRST_WITH_BATCHES else (0, 5)
    assert copied(library, version, runs=5) == several
    assert copied(library, 12040, runs=5) == (0, 5)
    assert copied(library, version, runs=1) == (0, 1)


def test_a_driver_runs_what_compilers_of_its_generation_make() -> None:
    """CUDA promises that for every minor version; an older generation and no driver at all have a remedy."""
    assert driver_refusal(12080, 12040) is None
    assert driver_refusal(12080, 13000) is None
    reason = driver_refusal(13000, 12080)
    assert reason is not None
    assert reason.startswith(
        "it was compiled by CUDA 13.0, and the driver knows CUDA up to 12.8; install a newer driver"
    )
    assert driver_refusal(13000, 0) is not None


def test_gpus_without_code_are_refused() -> None:
    """Older than the oldest that there is code for; newer ones compile it when they load it."""
    assert capability_refusal((8, 0)) is None
    assert capability_refusal((12, 0)) is None
    reason = "the GPU's compute capability is 7.5, and it is compiled for 8.0 and later"
    assert capability_refusal((7, 5)) == reason
