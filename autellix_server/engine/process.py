"""One start of an engine: its guardian process, its loopback port, its key and its log."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from autellix_server.engine.command import config_text
from autellix_server.engine.guardian import kill_all, live_processes, session_members
from autellix_server.engine.log import LogReader, begin_log
from autellix_server.errors import EngineFailure

LOOPBACK = "127.0.0.1"

_KEY_BYTES = 32
_GUARDIAN = "autellix_server.engine.guardian"
_MARGIN_S = 5.0
"""What the guardian gets beyond the engine's grace period before it is killed itself."""


class Launch(Protocol):
    """What is started, and what it must answer. Immutable."""

    @property
    def name(self) -> str:
        """Name of the engine in bills."""

    @property
    def python(self) -> Path:
        """Interpreter that runs the guardian; this package must be importable there."""

    @property
    def policy(self) -> str:
        """Policy that the engine's marker must show; `command.POLICY_OFF` demands no marker."""

    @property
    def secret(self) -> bytes:
        """Signs the gateway's stamps for this engine."""

    def command(self, port: int, config: Path) -> list[str]:
        """Return the engine's command line; `config` is a file of `command.config_text`."""

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the engine's environment, made from the caller's."""


class EngineProcess:
    """An engine that was started, whether or not it answers yet. Made by `start`."""

    def __init__(self, guardian: asyncio.subprocess.Process, url: str, key: str, config: Path, log: LogReader) -> None:
        self._guardian = guardian
        self._config = config
        self.url = url
        self.key = key
        self.log = log

    @classmethod
    async def start(cls, launch: Launch, log_path: Path, grace_s: float) -> EngineProcess:
        """Start an engine on a free loopback port with a random key.

        Args:
            launch: what to start.
            log_path: file that gets the engine's output; an earlier one is put aside.
            grace_s: seconds between SIGTERM and SIGKILL when the engine is stopped.

        Raises:
            EngineFailure: the interpreter is not there, log or key cannot be written, or the machine is at a limit.
        """
        key = secrets.token_hex(_KEY_BYTES)
        try:
            with begin_log(log_path) as log, ExitStack() as undone:
                port, config = _free_port(), _write_config(key)
                undone.callback(config.unlink, missing_ok=True)
                guardian = await asyncio.create_subprocess_exec(
                    *(str(launch.python), "-m", _GUARDIAN, str(grace_s), str(config)),
                    *launch.command(port, config),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=launch.environment(os.environ),
                    start_new_session=True,
                )
                undone.pop_all()
        except OSError as error:
            raise EngineFailure(f"the engine cannot be started: {error.strerror}: {error.filename}") from error
        return cls(guardian, f"http://{LOOPBACK}:{port}", key, config, LogReader(log_path))

    @property
    def pid(self) -> int:
        """The engine's own process ID, or its guardian's when the engine is not there (any more)."""
        guardian = self._guardian.pid
        return next((entry.pid for entry in live_processes() if entry.parent == guardian), guardian)

    @property
    def exit_status(self) -> int | None:
        """The exit status, 128 + signal if the engine was killed, or `None` while it runs."""
        return self._guardian.returncode

    async def wait(self) -> int:
        """Wait until the engine has exited and nothing of it is left; return its exit status."""
        return await self._guardian.wait()

    def forget_config(self) -> None:
        """Remove the file with the key; the engine has read it once it answers."""
        self._config.unlink(missing_ok=True)

    async def stop(self, grace_s: float) -> None:
        """Stop the engine, if it runs, and make sure that nothing of it is left, even if its guardian was killed."""
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()
        try:
            await asyncio.wait_for(self._guardian.wait(), grace_s + _MARGIN_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._guardian.kill()
            await self._guardian.wait()
        await asyncio.to_thread(kill_all, lambda: session_members(self._guardian.pid))
        self.forget_config()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _write_config(key: str) -> Path:
    descriptor, name = tempfile.mkstemp(prefix="autellix-engine-", suffix=".yaml")  # mode 0600
    with os.fdopen(descriptor, "w") as file:
        file.write(config_text(key))
    return Path(name)
