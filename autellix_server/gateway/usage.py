"""Reads how many tokens an answer took, where no bill says it. Nothing else of the answer is looked at."""

from __future__ import annotations

import json

from autellix_server.gateway.fleet.estimated_bill import Usage

_NAME = b'"usage"'
_EVENT = b"data:"


class UsageReader:
    """Finds the tokens in one answer: in its body, or in the last event that tells them."""

    def __init__(self) -> None:
        self._text = b""

    def whole(self, body: bytes) -> None:
        """Take an answer that came in one piece."""
        self._text = body

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of a stream of events; one that is cut within the event in question tells nothing."""
        if _NAME in chunk:
            self._text = chunk

    def usage(self) -> Usage | None:
        """Return the tokens, `None` if the answer does not tell them."""
        if _NAME not in self._text:
            return None
        texts = [line[len(_EVENT) :] for line in self._text.splitlines() if line.startswith(_EVENT)] or [self._text]
        found = None
        for text in texts:
            try:
                found = Usage.read(json.loads(text)) or found
            except (ValueError, RecursionError):
                continue
        return found
