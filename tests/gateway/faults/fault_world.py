"""A fleet of real processes: mock engines, and `autellix serve` in front of them, as an operator starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

SECRET = "00112233445566778899aabbccddeeff"
CHAT = {"model": "mock", "messages": [{"role": "user", "content": "go"}], "max_tokens": 8, "ignore_eos": True}
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "AUTELLIX_SECRET": SECRET, "PYTHONWARNINGS": "error"}
LIMIT_S = 30.0


@dataclass
class Process:
    """One of ours, and where it answers."""

    process: subprocess.Popen[str]
    url: str

    def kill(self) -> None:
        """End it as the kernel does."""
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)


@contextmanager
def command(*arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Run an `autellix` command until it is ready, and to the end of the context."""
    with subprocess.Popen(
        [sys.executable, "-m", "autellix_server", *arguments, "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**ENVIRONMENT, **(environ or {})},
    ) as process:
        try:
            assert process.stdout is not None
            event = json.loads(process.stdout.readline())
            assert event["event"] == "ready"
            yield Process(process, event["url"])
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


@dataclass
class Fleet:
    """Engines and the gateway in front of them."""

    folder: Path
    engines: list[Process]
    options: tuple[str, ...]
    gateway: Process = field(init=False)

    @contextmanager
    def serving(self) -> Iterator[httpx.Client]:
        """Run the gateway; a second time it finds the state of the first."""
        arguments = (
            *("serve", "--port", "0", "--policy", "plas", "--engines-file", str(self.folder / "engines.toml")),
            *("--state", str(self.folder / "state.db"), *self.options),
        )
        with (
            command(*arguments, environ={"AUTELLIX_HOME": str(self.folder)}) as self.gateway,
            httpx.Client(base_url=self.gateway.url, timeout=LIMIT_S) as client,
        ):
            yield client

    def in_flight(self) -> int:
        """Return the calls that the engines have, waiting and running."""
        return sum(
            load["num_running_reqs"] + load["num_waiting_reqs"]
            for engine in self.engines
            if engine.process.poll() is None
            for load in httpx.get(f"{engine.url}/v1/loads").json()["loads"]
        )


@contextmanager
def fleet(folder: Path, engines: int = 2, speed: float = 20.0, *options: str) -> Iterator[Fleet]:
    """Run engines, and make what serves them; nothing is left when it ends."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(command("mock-engine", "--port", "0", "--policy", "plas", "--speed", str(speed)))
            for _ in range(engines)
        ]
        folder.joinpath("engines.toml").write_text(
            "".join(
                f'[[engine]]\nurl = "{engine.url}"\nname = "e{number}"\nsecret_env = "AUTELLIX_SECRET"\n'
                for number, engine in enumerate(processes)
            )
        )
        yield Fleet(folder, processes, options)


def identity(program: str, call: str) -> dict[str, str]:
    """Return the identity headers of a call."""
    return {"x-autellix-program": program, "x-autellix-call": f"v1;s=a;t=0;c={call}"}


def program(client: httpx.Client, name: str) -> dict[str, Any]:
    """Return the row of a program."""
    row: dict[str, Any] = client.get(f"/autellix/v1/programs/{name}").json()
    return row


def engines_of(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """Return what the gateway says of its engines."""
    shown: dict[str, dict[str, Any]] = client.get("/health").json()["engines"]
    return shown
