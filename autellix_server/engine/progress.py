"""How long work reports where it is."""

from __future__ import annotations

import time
from typing import Protocol, TextIO


class Progress(Protocol):
    """Receives what a long piece of work is doing, in order, from one thread."""

    def stage(self, title: str, steps: int | None = None) -> None:
        """Begin a stage and end the one before it; `steps` is how many `step` calls to expect, if known."""

    def step(self, text: str) -> None:
        """Report one more step of the current stage; `text` is a few words."""

    def say(self, text: str) -> None:
        """Tell the user one sentence that stays readable."""

    def close(self) -> None:
        """End the last stage; nothing is reported after this."""


class PlainProgress:
    """Progress as plain lines, for pipes and log files: stages and sentences, not single steps."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began: float | None = None

    def stage(self, title: str, steps: int | None = None) -> None:
        """Print the stage's title."""
        self.close()
        self._began = time.monotonic()
        self.say(title)

    def step(self, text: str) -> None:
        """Print nothing: single steps would fill a log file."""

    def say(self, text: str) -> None:
        """Print the sentence on a line of its own."""
        print(f"autellix: {text}", file=self._stream, flush=True)

    def close(self) -> None:
        """Print how long the last stage took."""
        if self._began is not None:
            self.say(f"  done in {time.monotonic() - self._began:.0f} s")
            self._began = None
