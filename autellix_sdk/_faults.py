"""The seam that keeps the user's call safe: what goes wrong inside us is counted and logged once, never raised."""

from __future__ import annotations

import logging
from collections import Counter

_log = logging.getLogger("autellix_sdk")


class Faults:
    """Counts what went wrong, by kind. Any thread may record.

    Attributes:
        strict: raise our own errors instead of carrying on; for our own tests.
        counts: how often each kind occurred.
    """

    def __init__(self) -> None:
        self.strict = False
        self.counts: Counter[str] = Counter()

    def record(self, kind: str, error: BaseException | None = None) -> None:
        """Count something that can happen, such as a backend that is gone; log the first of its kind at WARNING."""
        self.counts[kind] += 1
        if self.counts[kind] == 1:
            reason = "" if error is None else f" ({type(error).__name__}: {error})"
            _log.warning("%s%s; this is logged once, later ones are only counted", kind, reason)

    def survive(self, kind: str, error: Exception) -> None:
        """Record an error of ours that must not reach the user's call; with `strict`, raise it after all."""
        self.record(kind, error)
        if self.strict:
            raise error


faults = Faults()
"""The faults of this process."""
