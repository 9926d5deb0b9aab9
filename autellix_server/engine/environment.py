"""The engine environment: a virtual environment with SGLang and our plugin, built on first use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autellix_server.cpu_ops import build
from autellix_server.engine import pins
from autellix_server.engine.home import Device, Home
from autellix_server.engine.installed import TorchBuild, drop_torn, torch_build, versions
from autellix_server.engine.package import PackageSource
from autellix_server.engine.pip import Pip
from autellix_server.engine.progress import Progress
from autellix_server.engine.runner import ProcessRunner, Runner, RunnerFactory
from autellix_server.engine.stages import Record, Stage, Workshop, free_disk_gb, plan
from autellix_server.errors import EnvironmentFailure

EngineState = Literal["absent", "partial", "outdated", "ready"]


@dataclass(frozen=True, slots=True)
class EnvironmentStatus:
    """What is there of one engine environment.

    Attributes:
        device: what its engines compute on.
        path: its folder.
        state: `outdated` when all that is left to do takes seconds: to install our own package from the source that
            is running now, and to compile its operations.
        missing: names of the stages still to do, in order.
        versions: of the main distributions installed, by name.
        torch: the torch build installed, if any.
        operations: the library of CPU operations that this code and this CPU need, if it is there; a CPU engine's.
    """

    device: Device
    path: Path
    state: EngineState
    missing: tuple[str, ...]
    versions: Mapping[str, str]
    torch: TorchBuild | None
    operations: Path | None


class EngineEnvironment:
    """The engine environment for one device in one home.

    Args:
        home: the folder it lives in.
        device: what its engines compute on.
        source: where our own package comes from; `None` means where the running code came from.
        runners: makes the runner for child processes.
        torch_index: package index to take a CPU torch from; `None` means `AUTELLIX_TORCH_INDEX`, else
            those that pip is configured with.
    """

    def __init__(
        self,
        home: Home,
        device: Device,
        *,
        source: PackageSource | None = None,
        runners: RunnerFactory = ProcessRunner,
        torch_index: str | None = None,
    ) -> None:
        self.device: Device = device
        self.path = home.engine(device)
        self.python = home.engine_python(device)
        self.log = home.log(f"install-{device}")
        self._home = home
        self._runners = runners
        index = torch_index or os.environ.get("AUTELLIX_TORCH_INDEX") or None
        self._stages = plan(self.path, device, source or PackageSource.of_running(), index)

    def status(self) -> EnvironmentStatus:
        """Return what is there; reads a few small files and runs nothing."""
        pending = self._pending()
        state: EngineState = "partial"
        if not pending:
            state = "ready"
        elif all(stage.quick for stage in pending):
            state = "outdated"
        elif not self.path.exists():
            state = "absent"
        operations = build.library(self.path / build.FOLDER)
        return EnvironmentStatus(
            self.device,
            self.path,
            state,
            missing=tuple(stage.name for stage in pending),
            versions=versions(self.path),
            torch=torch_build(self.path),
            operations=operations if operations.exists() else None,
        )

    def ensure(self, progress: Progress) -> Path:
        """Build whatever is missing and return the environment's Python interpreter.

        A ready environment costs a few milliseconds and no lock. A build that was cut short goes on with
        the stage it was in.

        Args:
            progress: is told of each stage.

        Raises:
            EnvironmentFailure: the environment cannot be built; the message says why and what to do.
        """
        if self._pending():
            try:
                with self._home.lock(progress.say) as lock:
                    self._build(progress, self._runners(self.log, lock))
            except OSError as error:
                raise EnvironmentFailure(f"cannot build {self.path}: {error.strerror or error}") from error
        return self.python

    def remove(self, progress: Progress) -> bool:
        """Delete the environment and return whether there was one.

        Raises:
            EnvironmentFailure: a file cannot be deleted.
        """
        # The record first: a removal cut short must not leave a broken environment that passes for ready.
        return self._home.delete(self.path, progress.say, first=lambda: Record(self.path).forget(self._stages[0]))

    def _pending(self) -> tuple[Stage, ...]:
        """Return the stages still to do: all of them when the first is not done or its Python is gone."""
        record = Record(self.path)
        if not record.has(self._stages[0]) or not self.python.exists():
            return self._stages
        return tuple(stage for stage in self._stages if not record.has(stage))

    def _build(self, progress: Progress, runner: Runner) -> None:
        # Read again under the lock: whoever held it may have done the work.
        pending = self._pending()
        if pending == self._stages:
            shutil.rmtree(self.path, ignore_errors=True)
            self.log.unlink(missing_ok=True)
        if pending and torch_build(self.path) is None:
            self._require_space()
        drop_torn(self.path)
        pip = Pip(self.python, runner, self.log)
        shop = Workshop(self.path, self.python, pip, runner, self.log, progress)
        record = Record(self.path)
        for stage in pending:
            progress.stage(stage.title, stage.steps)
            record.forget(stage)
            try:
                stage.run(shop)
            except EnvironmentFailure as failure:
                if not stage.optional:
                    raise
                progress.say(str(failure))
            else:
                record.add(stage)

    def _require_space(self) -> None:
        free_gb, needed_gb = free_disk_gb(self.path), pins.DISK_GB[self.device]
        if free_gb < needed_gb:
            raise EnvironmentFailure(
                f"the {self.device} engine needs {needed_gb:.0f} GB and {self._home.path} has {free_gb:.1f} GB free; "
                "make room or set AUTELLIX_HOME to a folder on a larger disk"
            )
