"""The stages in which an engine environment is built, and the record of those that are done."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autellix_server.cpu_ops import build
from autellix_server.engine import pins
from autellix_server.engine.home import Device
from autellix_server.engine.installed import torch_build
from autellix_server.engine.package import PackageSource
from autellix_server.engine.pip import NotOnIndex, Pip
from autellix_server.engine.progress import Progress
from autellix_server.engine.runner import Runner
from autellix_server.errors import EnvironmentFailure

INSTALL = ("install", "--no-compile")
"""Bytecode is written by the first imports instead of for every module there is: half the time, a third of the disk."""

TORCH_REMEDY = (
    "set AUTELLIX_TORCH_INDEX to PyTorch's CPU wheel index (pytorch.org/get-started names it), "
    "then run `autellix engine install --device cpu` again"
)

WITHOUT_OPERATIONS = (
    "the engine will compute with PyTorch's own operations, several times slower; {remedy} and run "
    "`autellix engine install --device cpu` again"
)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a stage works with: the environment's folder, its Python and pip, and where to report."""

    path: Path
    python: Path
    pip: Pip
    runner: Runner
    log: Path
    progress: Progress


@dataclass(frozen=True, slots=True)
class Stage:
    """One resumable step of a build.

    Attributes:
        name: key in the record.
        title: for the user, saying what is downloaded.
        fingerprint: what the stage installs; another value means that it has to run again.
        run: does the work; may be repeated after it was cut short.
        steps: how many progress steps to expect, if known.
        quick: takes seconds and downloads nothing: it depends on this checkout and this machine, not on versions.
        optional: engines run without it, so that a failure is said, and met with another try next time.
    """

    name: str
    title: str
    fingerprint: str
    run: Callable[[Workshop], None]
    steps: int | None = None
    quick: bool = False
    optional: bool = False


class Record:
    """The stages done in one environment folder, kept there as JSON and replaced atomically."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "autellix-stages.json"
        try:
            self._done: dict[str, str] = json.loads(self._file.read_text())
        except (OSError, ValueError):
            self._done = {}

    def has(self, stage: Stage) -> bool:
        """Tell whether this very stage, with the same fingerprint, is done."""
        return self._done.get(stage.name) == stage.fingerprint

    def add(self, stage: Stage) -> None:
        """Record that `stage` is done."""
        self._save(self._done | {stage.name: stage.fingerprint})

    def forget(self, stage: Stage) -> None:
        """Record that `stage` has to be done, whatever its fingerprint was."""
        self._save({name: value for name, value in self._done.items() if name != stage.name})

    def _save(self, done: dict[str, str]) -> None:
        self._done = done
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(done, indent=2) + "\n")
        fresh.replace(self._file)


def plan(path: Path, device: Device, source: PackageSource, torch_index: str | None) -> tuple[Stage, ...]:
    """Return the stages that build the environment for `device`, in order.

    Args:
        path: the environment's folder.
        device: what its engines compute on.
        source: where our own package comes from.
        torch_index: package index to take a CPU torch from; `None` means those that pip is configured with.
    """
    wheels = _cpu_wheel_stages(torch_index) if device == "cpu" else _cuda_wheel_stages()
    contents = " ".join(stage.fingerprint for stage in wheels)
    operations = (_operations_stage(path, build.compiler()),) if device == "cpu" else ()
    return (
        Stage("python", "creating the engine's Python environment", "1", _create_environment),
        *wheels,
        Stage(
            "autellix",
            "installing this Autellix into it",
            source.identity,
            lambda shop: _install_package(shop, source),
            quick=True,
        ),
        *operations,
        Stage("check", "checking that SGLang loads", contents, lambda shop: _check(shop, device)),
    )


def _cpu_wheel_stages(torch_index: str | None) -> tuple[Stage, ...]:
    requirements = pins.CPU_REQUIREMENTS.read_text()
    count = sum(1 for line in requirements.splitlines() if line and not line.startswith("#"))
    return (
        Stage(
            "torch",
            f"installing torch {pins.TORCH_CPU_VERSION} for the CPU (about 190 MB to download)",
            pins.TORCH_CPU_VERSION,
            lambda shop: _install_cpu_torch(shop, torch_index),
        ),
        Stage(
            "sglang",
            f"installing {pins.SGLANG} (about 45 MB to download)",
            " ".join(pins.CPU_WHEELS),
            lambda shop: shop.pip.run(*INSTALL, "--no-deps", *pins.CPU_WHEELS, progress=shop.progress),
            steps=len(pins.CPU_WHEELS),
        ),
        Stage(
            "libraries",
            f"installing the {count} libraries it needs (about 425 MB to download)",
            hashlib.sha256(requirements.encode()).hexdigest(),
            lambda shop: shop.pip.run(*INSTALL, "--no-deps", "-r", str(pins.CPU_REQUIREMENTS), progress=shop.progress),
            steps=count,
        ),
    )


def _cuda_wheel_stages() -> tuple[Stage, ...]:
    constraints = pins.CUDA_CONSTRAINTS.read_text()
    return (
        Stage(
            "sglang",
            f"installing {pins.SGLANG} with its CUDA libraries (about 8 GB to download)",
            hashlib.sha256(f"{pins.CUDA_WHEELS} {constraints}".encode()).hexdigest(),
            lambda shop: shop.pip.run(
                *INSTALL, "-c", str(pins.CUDA_CONSTRAINTS), *pins.CUDA_WHEELS, progress=shop.progress
            ),
            steps=sum(1 for line in constraints.splitlines() if line and not line.startswith("#")),
        ),
    )


def _operations_stage(path: Path, compiler: tuple[str, ...] | None) -> Stage:
    """Return the stage that compiles the CPU operations; without a compiler it runs again once there is one.

    Checkouts and CPUs that share the environment have a library each, and this stage each, under the library's name.
    """
    library = build.library(path / build.FOLDER)
    return Stage(
        library.stem,
        "compiling the CPU operations" if compiler else "looking for a C++ compiler",
        "compiled" if compiler or library.exists() else "no compiler",
        lambda shop: _compile_operations(shop, library, compiler),
        quick=True,
        optional=True,
    )


def _create_environment(shop: Workshop) -> None:
    if not pins.python_supported(sys.version_info[:2]):
        raise EnvironmentFailure(
            f"SGLang cannot be installed with Python {platform.python_version()}: "
            f"run autellix with Python {pins.supported_pythons()}"
        )
    if shop.runner([sys.executable, "-m", "venv", "--clear", str(shop.path)]) != 0:
        raise EnvironmentFailure(
            f"{sys.executable} -m venv failed; where Python is packaged in parts, install its venv package "
            f"(log: {shop.log})"
        )


def _install_cpu_torch(shop: Workshop, index: str | None) -> None:
    """Install torch alone: whichever build the index offers, its CUDA libraries are never downloaded."""
    version = pins.TORCH_CPU_VERSION
    if index is None and platform.machine() == "x86_64":
        # The plain version is a CUDA build of a gigabyte on the public index; only this suffix rules it out beforehand.
        version += "+cpu"
    env = {"PIP_INDEX_URL": index} if index else None
    try:
        shop.pip.run(*INSTALL, "--no-deps", f"torch=={version}", progress=shop.progress, env=env)
    except NotOnIndex as error:
        raise EnvironmentFailure(f"{error}: {TORCH_REMEDY}") from None
    build = torch_build(shop.path)
    if build is not None and build.cuda is not None:
        shop.pip.run("uninstall", "--yes", "torch", progress=shop.progress)
        raise EnvironmentFailure(
            f"torch {build.version} is built for CUDA {build.cuda} and this is a CPU engine: {TORCH_REMEDY}"
        )


def _install_package(shop: Workshop, source: PackageSource) -> None:
    # The build backend is part of the environment, in a pinned version: no throw-away build environment, no download.
    shop.pip.run(
        *INSTALL, "--no-deps", "--no-build-isolation", "--force-reinstall", *source.arguments, progress=shop.progress
    )


def _compile_operations(shop: Workshop, library: Path, compiler: tuple[str, ...] | None) -> None:
    if library.exists():
        return
    if compiler is None:
        cause, remedy = build.no_compiler()
        shop.progress.say(f"{cause}: {WITHOUT_OPERATIONS.format(remedy=remedy)}")
        return
    if not build.build(compiler, library, shop.runner):
        raise EnvironmentFailure(
            f"{compiler[0]} cannot compile the CPU operations (log: {shop.log}): "
            f"{WITHOUT_OPERATIONS.format(remedy='install a newer g++, or name another in CXX,')}"
        )


def _check(shop: Workshop, device: Device) -> None:
    lines: list[str] = []
    command = [str(shop.python), "-c", "import torch, transformers, sglang"]
    # Through the very entry point that an engine uses: AUTELLIX_CPU activates our platform.
    env = {"AUTELLIX_CPU": "1"} if device == "cpu" else {}
    if shop.runner(command, env=env | {"HF_HUB_OFFLINE": "1"}, on_line=lines.append) != 0:
        reason = next((line for line in reversed(lines) if line.strip()), "no output")
        raise EnvironmentFailure(
            f"SGLang does not load in {shop.path}: {reason} (log: {shop.log}); "
            f"run `autellix engine remove --device {device}`, then `autellix engine install --device {device}`"
        )


def free_disk_gb(path: Path) -> float:
    """Return the space free for this user on the disk that holds `path`, whose last parts may not exist yet."""
    while not path.exists():
        path = path.parent
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize / 1e9
