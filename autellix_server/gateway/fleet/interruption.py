"""Why the gateway ends its own work on a call, which is not why a client does."""

from __future__ import annotations

from typing import Protocol


class Interruption(Exception):
    """A call is interrupted by the gateway.

    Attributes:
        code: for programs, as in error bodies.
        retryable: the call may be sent to another engine if nothing of its answer was passed on.
    """

    def __init__(self, message: str, code: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class Interruptible(Protocol):
    """Work on a call that can be interrupted."""

    def interrupt(self, reason: Interruption) -> None:
        """End the work as soon as the event loop turns.

        The first reason counts, unless a later one has the call sent nowhere else.
        """
