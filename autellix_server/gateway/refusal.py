"""A call that is not served, and what its client is told."""

from __future__ import annotations

RETRY_AFTER_S = 2
"""What a client is told to wait when the engine is not there: about the time of a noticed death plus back-off."""


class Refused(Exception):
    """A call is not served; what the client is told.

    Attributes:
        status: of the HTTP response.
        code, kind: as in OpenAI's error bodies.
        retry_after_s: when to come back; `None`: not at all.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        kind: str = "invalid_request_error",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.kind = kind
        self.retry_after_s = retry_after_s


def unavailable(detail: str) -> Refused:
    """Return the refusal of a call that no engine can take now."""
    return Refused(
        503,
        f"the engine is not available: {detail}",
        "engine_unavailable",
        kind="server_error",
        retry_after_s=RETRY_AFTER_S,
    )
