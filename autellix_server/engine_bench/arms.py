"""What is compared: the CPU engine as it comes, SGLang as it is shipped, and servers of any command line. Pure."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autellix_sdk.errors import UsageError
from autellix_server.cpu_ops.build import SWITCH
from autellix_server.engine.command import CPU_ENVIRONMENT, POLICY_OFF, SglangLaunch
from autellix_server.engine.process import Launch

STOCK = "stock"
OURS = "ours"

STOCK_ARGUMENTS = ("--attention-backend", "torch_native")
STOCK_VARIABLES = {SWITCH: "off"}
"""Together with policy `POLICY_OFF`: SGLang on a CPU without any attention, operation or hook of ours.

What stays is how much it serves at once, in slots, KV tokens and chunks, and that it sleeps while it is idle.
"""

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9 ._-]{0,39})=(?P<line>.+)")
_PORT, _MODEL = "{port}", "{model}"


@dataclass(frozen=True, slots=True)
class Arm:
    """A server that takes its turn.

    Attributes:
        name: in tables.
        launch: how it is started.
        sglang: it is SGLang, and says of itself what it runs.
        backend: attention that it must say it runs; `None`: whatever it does.
        gguf: file with its weights, where the command line names one.
    """

    name: str
    launch: Launch
    sglang: bool = True
    backend: str | None = None
    gguf: Path | None = None


@dataclass(frozen=True, slots=True)
class StockLaunch:
    """SGLang as it is shipped, on a CPU. Satisfies `process.Launch`.

    Attributes:
        sglang: the engine, started with `STOCK_ARGUMENTS`.
    """

    sglang: SglangLaunch

    @property
    def name(self) -> str:
        """Name of the engine."""
        return STOCK

    @property
    def python(self) -> Path:
        """Interpreter of the engine environment."""
        return self.sglang.python

    @property
    def policy(self) -> str:
        """No policy."""
        return POLICY_OFF

    @property
    def secret(self) -> bytes:
        """Of no use: there is no plugin to check stamps."""
        return self.sglang.secret

    def command(self, port: int, config: Path) -> list[str]:
        """Return the engine's command line."""
        return self.sglang.command(port, config)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the engine's environment without our settings: threads wait as usual, for one."""
        ours = self.sglang.environment(environ)
        shipped = {name: value for name, value in ours.items() if name not in CPU_ENVIRONMENT or name in environ}
        return shipped | STOCK_VARIABLES


@dataclass(frozen=True, slots=True)
class CommandLaunch:
    """Any OpenAI-compatible server. Satisfies `process.Launch`.

    Attributes:
        name: of the arm.
        words: its command line; ``{port}`` and ``{model}`` stand for the port and the model's folder.
        model: the folder.
    """

    name: str
    words: tuple[str, ...]
    model: str

    @property
    def python(self) -> Path:
        """Interpreter for the guardian: the one that runs this."""
        return Path(sys.executable)

    @property
    def policy(self) -> str:
        """No policy."""
        return POLICY_OFF

    @property
    def secret(self) -> bytes:
        """There is none."""
        return b""

    def command(self, port: int, config: Path) -> list[str]:
        """Return the server's command line."""
        return [word.replace(_PORT, str(port)).replace(_MODEL, self.model) for word in self.words]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the caller's environment."""
        return dict(environ)


def own_arms(python: Path, model: str, policy: str, slots: int, arguments: Sequence[str]) -> list[Arm]:
    """Return SGLang as it is shipped and the engine as it comes.

    Args:
        python: interpreter of the engine environment.
        model: folder or Hugging Face ID.
        policy: of the engine as it comes.
        slots: calls that an engine must run side by side.
        arguments: of the user, for both; they win.
    """
    shared = ("--max-running-requests", str(slots))
    stock = SglangLaunch(python, model, POLICY_OFF, "cpu", arguments=(*shared, *STOCK_ARGUMENTS, *arguments))
    ours = SglangLaunch(python, model, policy, "cpu", arguments=(*shared, *arguments))
    return [Arm(STOCK, StockLaunch(stock), backend=STOCK_ARGUMENTS[1]), Arm(OURS, ours)]


def command_arm(text: str, model: str) -> Arm:
    """Return the arm that ``NAME=COMMAND LINE`` describes.

    Raises:
        UsageError: it does not; the message says what to write.
    """
    found = _NAMED.fullmatch(text)
    if found is None or found["name"] in (STOCK, OURS) or _PORT not in found["line"]:
        raise UsageError(f"--server is {text!r}; write NAME=COMMAND, with a new name and {_PORT} for the port")
    try:
        words = tuple(shlex.split(found["line"]))
    except ValueError as error:
        raise UsageError(f"--server {found['name']}: the command line cannot be split: {error}") from error
    gguf = next((Path(word) for word in words if word.endswith(".gguf")), None)
    return Arm(found["name"], CommandLaunch(found["name"], words, model), sglang=False, gguf=gguf)
