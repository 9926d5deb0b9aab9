"""Servers of any command line: ``--server NAME=COMMAND`` of the benchmarks. Pure."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autellix_sdk.errors import UsageError
from autellix_server.engine.command import POLICY_OFF

PORT = "{port}"
"""What a command line has in place of the port."""

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9 ._-]{0,39})=(?P<line>.+)")


@dataclass(frozen=True, slots=True)
class ServerLaunch:
    """Any server of a command line. Satisfies `engine.process.Launch`.

    Attributes:
        name: of the server.
        words: its command line; `PORT` stands for the port.
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
        return [word.replace(PORT, str(port)) for word in self.words]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the caller's environment and the server's own variables."""
        return {**environ, **self.variables}


def named_command(text: str, taken: Collection[str], holes: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Return the name and the words of ``NAME=COMMAND LINE``.

    Args:
        text: what the user wrote.
        taken: names that are not free.
        holes: what must stand in the command line, and what each is for; at least one.

    Raises:
        UsageError: it is written otherwise; the message says what to write.
    """
    found = _NAMED.fullmatch(text)
    if found is None or found["name"] in taken or any(hole not in found["line"] for hole in holes):
        *wanted, last = ("a new name", *(f"{hole} for {meaning}" for hole, meaning in holes.items()))
        raise UsageError(f"--server is {text!r}; write NAME=COMMAND, with {', '.join(wanted)} and {last}")
    try:
        return found["name"], tuple(shlex.split(found["line"]))
    except ValueError as error:
        raise UsageError(f"--server {found['name']}: the command line cannot be split: {error}") from error
