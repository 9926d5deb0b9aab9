"""Compiling the operations: the file they are in, and how it is made.

The installer compiles them and the engine looks for the file, each with a Python of its own: standard library only.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

FOLDER = "autellix-cpu-ops"
"""Folder of the compiled operations in an engine environment; an engine finds its own below `sys.prefix`."""

SWITCH = "AUTELLIX_CPU_OPS"
"""Variable that is ``off`` for an engine that is to compute and keep its KV as SGLang is shipped, for comparison."""

COMPILERS = ("c++", "g++", "clang++")
"""Looked for in this order where `CXX` names none."""

_NATIVE = Path(__file__).with_name("native")
_SOURCES = {".h", ".cpp"}
_CPU_INFO = Path("/proc/cpuinfo")
_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread")
_CPU_FEATURES = re.compile(r"^(?:flags|Features)\s*:(.*)$", re.MULTILINE)
_DIGEST_LENGTH = 12


def library(folder: Path) -> Path:
    """Return the file for the sources as they are, our compiler flags and this machine's CPU, compiled or not.

    What is compiled for one CPU may end the process on another that shares the folder, so each has a file of its own.

    Args:
        folder: that of the compiled operations, see `FOLDER`.
    """
    digest = hashlib.sha256()
    for part in _parts():
        digest.update(hashlib.sha256(part).digest())
    return folder / f"operations-{digest.hexdigest()[:_DIGEST_LENGTH]}.so"


def compiler(environ: Mapping[str, str] = os.environ) -> tuple[str, ...] | None:
    """Return the command of a C++ compiler, its program as a full path; `None` if there is none.

    Args:
        environ: read for `CXX`, which may have arguments (``ccache g++``) and is the only candidate if it is set, and
            for `PATH`.
    """
    chosen = environ.get("CXX", "").split()
    for program, *arguments in [chosen] if chosen else [[name] for name in COMPILERS]:
        if path := shutil.which(program, path=environ.get("PATH")):
            return (path, *arguments)
    return None


def no_compiler(environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Return why `compiler` returned `None`, and what to do about it, in a few words each."""
    if chosen := environ.get("CXX", "").strip():
        return f"CXX is {chosen}, which cannot be run", "unset CXX or let it name a C++ compiler"
    return "no C++ compiler", "install g++"


def cpu_features() -> frozenset[str]:
    """Return what this machine's CPU can do, in the kernel's words (``avx512_bf16``)."""
    features = _CPU_FEATURES.search(_CPU_INFO.read_text())
    return frozenset(features[1].split() if features else ())


def has_bfloat16() -> bool:
    """Return whether this machine's CPU has instructions for bfloat16; without them float32 is the faster type."""
    return not cpu_features().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def build(command: Sequence[str], target: Path, run: Callable[[Sequence[str]], int] = subprocess.call) -> bool:
    """Compile the operations and return whether that worked; some seconds.

    `target` appears complete or not at all. A file that is there is replaced; who has it loaded keeps the old one.

    Args:
        command: of the compiler, as `compiler` returns it.
        target: file to make, as `library` returns it; its folder is made too.
        run: runs a command and returns its exit status.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(f".{os.getpid()}")
    try:
        if run([*command, *_flags(), "-o", str(fresh), str(_NATIVE / "ops.cpp")]) != 0:
            return False
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return True


def _flags() -> tuple[str, ...]:
    # For ARM, `-march=native` would leave the tuning generic, and older clang does not know it.
    native = "-mcpu=native" if platform.machine() == "aarch64" else "-march=native"
    return (*_FLAGS, native)


def _parts() -> Iterator[bytes]:
    """Yield what the compiled code depends on, in an order that is always the same."""
    for source in sorted(file for file in _NATIVE.iterdir() if file.suffix in _SOURCES):
        yield source.name.encode()
        yield source.read_bytes()
    yield " ".join((platform.machine(), *_flags())).encode()
    yield " ".join(sorted(cpu_features())).encode()
