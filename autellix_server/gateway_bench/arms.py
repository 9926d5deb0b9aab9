"""What is compared: our gateway as an operator starts it, and gateways of any command line. Pure but for one file."""

from __future__ import annotations

import re
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autellix_sdk.errors import UsageError
from autellix_server.engine.command import POLICY_OFF

DIRECT = "direct"
OURS = "ours"
ENGINE = "engine"

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9 ._-]{0,39})=(?P<line>.+)")
_PORT, _ENGINE = "{port}", "{engine}"
_SECRET_VARIABLE = "AUTELLIX_GATEWAY_BENCH_SECRET"
_SECRET_BYTES = 16


@dataclass(frozen=True, slots=True)
class ServerLaunch:
    """Any server of a command line. Satisfies `engine.process.Launch`.

    Attributes:
        name: of the server.
        words: its command line; ``{port}`` stands for the port.
        variables: environment variables beside the caller's.
    """

    name: str
    words: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

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
        return [word.replace(_PORT, str(port)) for word in self.words]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the caller's environment and the server's own variables."""
        return {**environ, **self.variables}


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
        return (sys.executable, "-m", "autellix_server", "serve", "--port", _PORT, *self.arguments)

    def launch(self, engine_url: str, folder: Path) -> ServerLaunch:
        """Return what starts it in front of an engine; a file in `folder` tells it of the engine."""
        engines = folder / "engines.toml"
        engines.write_text(f'[[engine]]\nurl = "{engine_url}"\nsecret_env = "{_SECRET_VARIABLE}"\n')
        secret = {_SECRET_VARIABLE: secrets.token_hex(_SECRET_BYTES)}
        return ServerLaunch(self.name, (*self.words, "--engines-file", str(engines)), secret)


AnyArm = Arm | OwnArm


def engine_launch() -> ServerLaunch:
    """Return what starts the engine."""
    return ServerLaunch(ENGINE, (sys.executable, "-m", "autellix_server.gateway_bench.fixed_engine", _PORT))


def command_arm(text: str) -> Arm:
    """Return the arm that ``NAME=COMMAND LINE`` describes.

    Raises:
        UsageError: it does not; the message says what to write.
    """
    found = _NAMED.fullmatch(text)
    if found is None or found["name"] in (DIRECT, OURS, ENGINE) or any(hole not in text for hole in (_PORT, _ENGINE)):
        raise UsageError(
            f"--server is {text!r}; write NAME=COMMAND, with a new name, {_PORT} for the port and {_ENGINE} for the "
            "engine's URL"
        )
    try:
        return Arm(found["name"], tuple(shlex.split(found["line"])))
    except ValueError as error:
        raise UsageError(f"--server {found['name']}: the command line cannot be split: {error}") from error


def names_of(arms: Sequence[AnyArm]) -> list[str]:
    """Return the names of arms, in order.

    Raises:
        UsageError: two have one.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise UsageError("several --server have the same name; give each one of its own")
    return names
