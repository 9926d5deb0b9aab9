"""What is active between `init` and `shutdown`, and what is fixed for the process."""

from __future__ import annotations

import os
from dataclasses import dataclass

from autellix_sdk._lifecycle import Reporter
from autellix_sdk._settings import Settings
from autellix_sdk.wire import ProgramId

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_SALT_LENGTH = 6


def new_program_id() -> ProgramId:
    """Return a new program ID: 128 random bits."""
    return ProgramId(os.urandom(16).hex())


def _new_salt() -> str:
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in os.urandom(_SALT_LENGTH))


@dataclass(slots=True)
class Runtime:
    """State of the client in this process.

    Attributes:
        salt: tells this process's calls from those of its forks.
        settings: what `init` was told; `None` before `init` and after `shutdown`.
        reporter: posts ends of programs; `None` without a backend.
    """

    salt: str
    settings: Settings | None = None
    reporter: Reporter | None = None

    def after_fork(self) -> None:
        """Continue in a forked process, under a salt of its own."""
        self.salt = _new_salt()
        if self.reporter is not None:
            self.reporter.after_fork()


runtime = Runtime(_new_salt())
"""The state of this process."""
