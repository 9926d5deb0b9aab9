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


def new_salt() -> str:
    """Return a salt for the call IDs of one program in one process."""
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in os.urandom(_SALT_LENGTH))


@dataclass(slots=True)
class Runtime:
    """State of the client in this process.

    Attributes:
        settings: what `init` was told; `None` before `init` and after `shutdown`.
        reporter: looks after programs and posts their ends; there is one while there are settings.
        carries: this process has written or read the header that carries identity between processes. One that has
            not does not look for it in the calls that it makes, which would take a fifth of the time they get.
    """

    settings: Settings | None = None
    reporter: Reporter | None = None
    carries: bool = False

    def after_fork(self) -> None:
        """Continue in a forked process."""
        if self.reporter is not None:
            self.reporter.after_fork()


runtime = Runtime()
"""The state of this process."""
