"""Compiling the CUDA sources: the file they are in, and how it is made. Nothing here needs a GPU or torch."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDER = "autellix-kernels"
"""Folder of the compiled kernels in a Python environment, below `sys.prefix`."""

ARCHITECTURES = ("80", "90")
"""Compute capabilities that get code of their own; later GPUs compile theirs from the last one's when they load it."""

_SOURCES = Path(__file__).parent
_USUAL = Path("/usr/local/cuda")
_LAST = ARCHITECTURES[-1]
_FLAGS = (
    *("-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC"),
    *(f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES),
    f"-gencode=arch=compute_{_LAST},code=compute_{_LAST}",
)
_DIGEST_LENGTH = 12


def compiler(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the full path of nvcc; `None` if there is none.

    Args:
        environ: read for `NVCC`, which is the only candidate if it is set, for `PATH`, and for `CUDA_HOME`, where it is
            looked for after `PATH` and before ``/usr/local/cuda``.
    """
    if chosen := environ.get("NVCC"):
        return shutil.which(chosen, path=environ.get("PATH"))
    homes = [Path(environ["CUDA_HOME"])] if environ.get("CUDA_HOME") else []
    candidates = ["nvcc", *(str(home / "bin" / "nvcc") for home in (*homes, _USUAL))]
    found = (shutil.which(candidate, path=environ.get("PATH")) for candidate in candidates)
    return next((path for path in found if path), None)


def library(folder: Path) -> Path:
    """Return the file for the sources as they are and our flags, compiled or not.

    Args:
        folder: that of the compiled kernels, see `FOLDER`.
    """
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for source in sorted(file for file in _SOURCES.iterdir() if file.suffix in {".h", ".cu"}):
        digest.update(hashlib.sha256(source.name.encode() + b"\0" + source.read_bytes()).digest())
    return folder / f"swap-{digest.hexdigest()[:_DIGEST_LENGTH]}.so"


def build(nvcc: str, target: Path, *, more: Sequence[str] = ()) -> str | None:
    """Compile the kernels; some seconds. Return what the compiler has to say if that failed, else `None`.

    `target` appears complete or not at all. A file that is there is replaced; who has it loaded keeps the old one.

    Args:
        nvcc: as `compiler` returns it.
        target: file to make, as `library` returns it; its folder is made too.
        more: further arguments of the compiler.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(f".{os.getpid()}")
    try:
        command = [nvcc, *_FLAGS, *more, "-o", str(fresh), str(_SOURCES / "swap.cu")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return (done.stderr or done.stdout).strip() or f"{nvcc} ended with status {done.returncode}"
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return None


def first_error(said: str) -> str:
    """Return the first line of a compiler's output that has an error, or else its first line."""
    lines = said.splitlines()
    return next((line for line in lines if "error" in line.lower()), lines[0]).strip()
