"""How the CUDA sources become a library; what its kernels do is in the conformance suite, on a GPU or in its place."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from autellix_kernels import swap_out
from autellix_kernels.cuda import build, library
from autellix_kernels.cuda.kernels import BatchSwap, CudaStagedSwap, CudaSwap
from autellix_kernels.cuda.library import load
from autellix_kernels.errors import KernelUnavailable, TransferFailed
from autellix_kernels.layout import HostLayout
from autellix_kernels.pools import HostPool
from autellix_kernels.reference import Reference
from autellix_kernels.runs import Copies
from autellix_kernels.transfer import Direction, Geometry, SwapKernel, Transfer, Work

from tests.kernels.shapes import KINDS, memory, pools

STRICT = ("-Xcompiler", "-Wall,-Wextra,-Werror", "--Werror", "all-warnings")


@pytest.fixture
def nvcc() -> str:
    """The compiler; without it a test is skipped."""
    found = build.compiler()
    if found is None:
        pytest.skip("there is no nvcc: the CUDA kernels are neither compiled nor tested; install CUDA's compiler")
    return found


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Have the library looked for anew, in the test and after it."""
    library._loaded.cache_clear()
    yield
    library._loaded.cache_clear()


@pytest.mark.parametrize("architecture", build.ARCHITECTURES)
def test_the_sources_compile_without_a_warning(nvcc: str, architecture: str, tmp_path: Path) -> None:
    """To code of each architecture, with accesses of 16 bytes."""
    source = Path(build.__file__).with_name("swap.cu")
    target = [f"-gencode=arch=compute_{architecture},code=sm_{architecture}"]
    made = subprocess.run(
        [nvcc, "-std=c++17", "-O3", *STRICT, *target, "--keep", "--keep-dir", tmp_path, "-cubin", source],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    ptx = (tmp_path / "swap.ptx").read_text()
    assert f".target sm_{architecture}" in ptx
    assert ptx.count("ld.global.cs.v4.u32") == ptx.count("st.global.cs.v4.u32") == 2 * 4


def test_the_library_is_made_once_and_complete(nvcc: str, tmp_path: Path) -> None:
    """Of all architectures together, without a warning, and nothing is left beside it."""
    file = build.library(tmp_path / "new")
    assert build.build(nvcc, file, more=STRICT) is None
    assert list(file.parent.iterdir()) == [file]
    assert build.library(tmp_path / "new") == file


def test_a_compiler_that_fails_leaves_nothing(nvcc: str, tmp_path: Path) -> None:
    """And what it said is the caller's."""
    said = build.build(nvcc, build.library(tmp_path), more=["--no-such-flag"])
    assert said is not None
    assert "--no-such-flag" in said
    assert list(tmp_path.iterdir()) == []


def test_nvcc_is_the_one_that_is_named(tmp_path: Path) -> None:
    """Else the one on the path, else that of `CUDA_HOME`."""
    for folder in ("named", "path", "home/bin"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "nvcc").touch(mode=0o755)
    named, path, home = (str(tmp_path / folder) for folder in ("named/nvcc", "path", "home"))
    assert build.compiler({"NVCC": named, "PATH": path, "CUDA_HOME": home}) == named
    assert build.compiler({"NVCC": f"{named}x", "PATH": path, "CUDA_HOME": home}) is None
    assert build.compiler({"PATH": path, "CUDA_HOME": home}) == f"{path}/nvcc"
    assert build.compiler({"PATH": str(tmp_path), "CUDA_HOME": home}) == f"{home}/bin/nvcc"


@pytest.mark.usefixtures("forgotten")
def test_without_nvcc_the_kernels_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing has been copied, and there is a remedy."""
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setenv("NVCC", str(tmp_path / "nvcc"))
    device_pool, host_pool = pools(KINDS[0], "page_first")
    before, slots = memory(host_pool), torch.tensor([0])
    for kernel in ("cuda", "cuda-staged", "batch"):
        with pytest.raises(KernelUnavailable, match=f"{kernel} cannot run on cpu: there is no nvcc; install"):
            swap_out(device_pool, host_pool, slots, slots, kernel=kernel)
    assert memory(host_pool) == before


@pytest.mark.usefixtures("forgotten")
def test_a_compiler_that_fails_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As it takes seconds; what it said is one line, and there is a remedy."""
    failing, asked = tmp_path / "nvcc", tmp_path / "asked"
    failing.write_text(
        f"#!/bin/sh\necho asked >> {asked}\nprintf 'note\\nfatal error: too new\\nmore\\n' >&2\nexit 1\n"
    )
    failing.chmod(0o755)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setenv("NVCC", str(failing))
    for kernel in (CudaSwap(), BatchSwap()):
        reason = kernel.refusal(torch.device("cpu"))
        assert reason == f"{failing} failed, and NVCC may name another: fatal error: too new"
    assert asked.read_text() == "asked\n"


@pytest.mark.usefixtures("forgotten")
def test_a_folder_that_cannot_be_written_is_a_reason(
    nvcc: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not an error of the operating system."""
    (tmp_path / build.FOLDER).touch()
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(KernelUnavailable, match="cannot be made or loaded"):
        load()


def test_what_cuda_reports_is_an_error(nvcc: str, device: str) -> None:
    """With its own words; here an access of three bytes, and on a machine without a GPU any copy by CUDA."""
    one = torch.zeros(1, dtype=torch.int64, device=device)
    with pytest.raises(TransferFailed, match="CUDA: invalid argument"):
        load().swap_rows(Geometry(3, 3, 3, one.data_ptr(), 3, 3, 3), one, one, one, 1, Direction.OUT)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("layout", HostLayout)
def test_a_swap_larger_than_its_stage_goes_in_turns(
    nvcc: str, layout: HostLayout, direction: Direction, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same outcome; each turn is one batch of copies, and a stage has a page at least."""
    kernels = load()
    batches: list[int] = []
    copy_runs = kernels.copy_runs

    def counted(copies: Copies, *rest: Any) -> Work:
        batches.append(len(copies.sizes))
        return copy_runs(copies, *rest)

    monkeypatch.setattr(kernels, "copy_runs", counted)

    def outcome(kernel: SwapKernel) -> list[bytes]:
        torch.manual_seed(0)
        both = pools(KINDS[0], layout, page_size=4, slots=64, pages=16, device=device)
        slots = torch.randperm(62)
        kernel.copy(Transfer(*both, slots, slots.flip(0), range(2), 0, direction))
        if device == "cuda":
            torch.cuda.synchronize()
        return memory(both[0]) + memory(both[1])

    expected = outcome(Reference())
    page_bytes = 4 * 2 * 2 * 64
    for stage_bytes, turns in ((page_bytes * 16, 1), (page_bytes * 5, 4), (1, 16)):
        assert outcome(CudaStagedSwap(stage_bytes)) == expected
        assert len(batches) == turns
        batches.clear()


@pytest.mark.parametrize("direction", Direction)
def test_without_memory_for_a_stage_the_kernel_goes_straight(
    nvcc: str, direction: Direction, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine may have taken all of the GPU's memory since the kernel was chosen."""

    def full(*_: object, **__: object) -> HostPool:
        raise torch.OutOfMemoryError("no 64 MiB left")

    monkeypatch.setattr(HostPool, "stage", full)
    outcomes = []
    for kernel in (Reference(), CudaStagedSwap()):
        torch.manual_seed(0)
        both = pools(KINDS[0], "page_first", page_size=4, slots=64, pages=16, device=device)
        slots = torch.randperm(62)
        work = kernel.copy(Transfer(*both, slots, slots.flip(0), range(2), 0, direction))
        if device == "cuda":
            torch.cuda.synchronize()
        outcomes.append(memory(both[0]) + memory(both[1]))
    assert outcomes[0] == outcomes[1]
    assert work == Work(launches=2)


class FakeStream:
    """A stream that knows whom it waited for."""

    def __init__(self, handle: int) -> None:
        self.cuda_stream = handle
        self.waited: list[FakeStream] = []

    def wait_stream(self, other: FakeStream) -> None:
        """Note that."""
        self.waited.append(other)


def test_copies_take_their_turn_in_the_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a stream beside the default one, which waits for what is on its way even if something fails."""
    side, default, other = FakeStream(7), FakeStream(0), FakeStream(9)
    gpu = torch.device("cuda:1")
    monkeypatch.setattr(library, "_side_stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: default)
    fails = library._batch_stream(gpu)
    assert (fails.__enter__(), side.waited, default.waited) == (7, [default], [])
    error = TransferFailed("CUDA: half of the copies are on their way")
    assert not fails.__exit__(TransferFailed, error, None)
    assert default.waited == [side]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: other)
    with library._batch_stream(gpu) as handle:
        assert handle == 9
    assert (other.waited, side.waited) == ([], [default])


def test_work_is_counted(nvcc: str, device: str) -> None:
    """Launches and copies of a swap of two full pages that are side by side, and one that is not full."""
    both = pools(KINDS[0], "page_first_direct", page_size=4, slots=64, pages=16, layers=3, device=device)
    slots = torch.arange(8, 18)
    whole = Transfer(*both, slots, slots, range(3), 0, Direction.OUT)
    assert CudaSwap().copy(whole) == Work(launches=2)
    assert BatchSwap().copy(whole) == Work(launches=1, copies=2 * 3 * 3)
    assert CudaStagedSwap().copy(whole) == Work(launches=2 + 1, copies=2 * (1 + 3))
