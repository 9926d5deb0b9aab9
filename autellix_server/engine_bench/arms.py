"""What is compared: the CPU engine as it comes, SGLang as it is shipped, and servers of any command line. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autellix_server.cpu_ops.build import SWITCH
from autellix_server.engine.command import CPU_ENVIRONMENT, POLICY_OFF, SglangLaunch
from autellix_server.engine.process import Launch
from autellix_server.engine_bench.any_server import PORT, ServerLaunch, named_command

STOCK = "stock"
OURS = "ours"

STOCK_ARGUMENTS = ("--attention-backend", "torch_native")
STOCK_VARIABLES = {SWITCH: "off"}
"""Together with policy `POLICY_OFF`: SGLang on a CPU without any attention, operation or hook of ours.

What stays is how much it serves at once, in slots, KV tokens and chunks, and that it sleeps while it is idle.
"""

_MODEL = "{model}"


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
    name, words = named_command(text, (STOCK, OURS), {PORT: "the port"})
    words = tuple(word.replace(_MODEL, model) for word in words)
    gguf = next((Path(word) for word in words if word.endswith(".gguf")), None)
    return Arm(name, ServerLaunch(name, words), sglang=False, gguf=gguf)
