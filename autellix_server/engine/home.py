"""Where engines and models live on this machine: `AUTELLIX_HOME` and the lock that guards it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autellix_server.errors import EnvironmentFailure

Device = Literal["cpu", "cuda"]
"""What an engine computes on."""

DEVICES: tuple[Device, ...] = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that engine environments, models and logs share.

    Several checkouts and several Python environments may use one home at the same time: whoever changes
    it holds `lock()`.
    """

    path: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Home:
        """Return the home that the environment names.

        Args:
            environ: read for `AUTELLIX_HOME`, else `XDG_CACHE_HOME/autellix`, else `~/.cache/autellix`.

        Returns:
            The home, as an absolute path; nothing is created.
        """
        if chosen := environ.get("AUTELLIX_HOME"):
            return cls(Path(chosen).expanduser().absolute())
        cache = Path(environ.get("XDG_CACHE_HOME") or "")
        # The XDG specification has relative paths ignored.
        return cls((cache if cache.is_absolute() else Path.home() / ".cache") / "autellix")

    def engine(self, device: Device) -> Path:
        """Return the folder of the engine environment for `device`."""
        return self.path / f"engine-{device}"

    def engine_python(self, device: Device) -> Path:
        """Return the Python interpreter of the engine environment for `device`."""
        return self.engine(device) / "bin" / "python"

    @property
    def models(self) -> Path:
        """The folder that holds one folder per converted model."""
        return self.path / "models"

    def log(self, name: str) -> Path:
        """Return the path of the log file called `name` (without suffix)."""
        return self.path / "logs" / f"{name}.log"

    def state(self, port: int) -> Path:
        """Return the state file of the gateway on a port."""
        return self.path / "state" / f"gateway-{port}.db"

    def delete(self, folder: Path, say: Callable[[str], None], first: Callable[[], None] = lambda: None) -> bool:
        """Delete a folder of this home, under its lock, and return whether there was one.

        Args:
            folder: what to delete.
            say: as for `lock`.
            first: done under the lock before anything is deleted.

        Raises:
            EnvironmentFailure: a file cannot be deleted.
        """
        if not folder.exists():
            return False
        try:
            with self.lock(say):
                first()
                shutil.rmtree(folder)
        except OSError as error:
            raise EnvironmentFailure(f"cannot remove {folder}: {error.strerror or error}") from error
        return True

    @contextmanager
    def lock(self, say: Callable[[str], None]) -> Iterator[int]:
        """Hold the right to change this home; a second process waits for the first.

        Args:
            say: told, in one sentence, when there is somebody to wait for.

        Yields:
            The descriptor that carries the lock. A child process that inherits it keeps the lock alive when
            its parent is killed, so that the next process never works beside an orphaned installer.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "install.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another process is installing into {self.path}; waiting for it to finish")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()
