"""What is compared: our gateway as an operator starts it, and gateways of any command line. Pure but for one file."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autellix_sdk.errors import UsageError
from autellix_server.engine_bench.any_server import PORT, ServerLaunch, named_command

DIRECT = "direct"
OURS = "ours"
ENGINE = "engine"

_ENGINE = "{engine}"
_SECRET_VARIABLE = "AUTELLIX_GATEWAY_BENCH_SECRET"
_SECRET_BYTES = 16


@dataclass(frozen=True, slots=True)
class Arm:
    """A gateway that takes its turn.

    Attributes:
        name: in tables.
        words: its command line; ``{port}`` and ``{engine}`` stand for its port and the engine's URL.
    """

    name: str
    words: tuple[str, ...]

    def launch(self, engine_url: str, folder: Path) -> ServerLaunch:
        """Return what starts it in front of an engine.

        Args:
            engine_url: of the engine.
            folder: for files of its own; of no use to this one.
        """
        return ServerLaunch(self.name, tuple(word.replace(_ENGINE, engine_url) for word in self.words))


@dataclass(frozen=True, slots=True)
class OwnArm:
    """`autellix serve`, attached to an engine with which it shares a secret: calls are stamped, and bills settled.

    Attributes:
        arguments: more of them, of the user's.
    """

    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """In tables."""
        return OURS

    @property
    def words(self) -> tuple[str, ...]:
        """Its command line, without the engine."""
        return (sys.executable, "-m", "autellix_server", "serve", "--port", PORT, *self.arguments)

    def launch(self, engine_url: str, folder: Path) -> ServerLaunch:
        """Return what starts it in front of an engine; a file in `folder` tells it of the engine."""
        engines = folder / "engines.toml"
        engines.write_text(f'[[engine]]\nurl = "{engine_url}"\nsecret_env = "{_SECRET_VARIABLE}"\n')
        secret = {_SECRET_VARIABLE: secrets.token_hex(_SECRET_BYTES)}
        return ServerLaunch(self.name, (*self.words, "--engines-file", str(engines)), secret)


AnyArm = Arm | OwnArm


def engine_launch() -> ServerLaunch:
    """Return what starts the engine."""
    return ServerLaunch(ENGINE, (sys.executable, "-m", "autellix_server.gateway_bench.fixed_engine", PORT))


def command_arm(text: str) -> Arm:
    """Return the arm that ``NAME=COMMAND LINE`` describes.

    Raises:
        UsageError: it does not; the message says what to write.
    """
    holes = {PORT: "the port", _ENGINE: "the engine's URL"}
    return Arm(*named_command(text, (DIRECT, OURS, ENGINE), holes))


def names_of(arms: Sequence[AnyArm]) -> list[str]:
    """Return the names of arms, in order.

    Raises:
        UsageError: two have one.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise UsageError("several --server have the same name; give each one of its own")
    return names
