"""How long work reports where it is."""

from __future__ import annotations

import time
from collections.abc import Callable
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


STEP_PERIOD_S = 30.0
"""A plain progress prints a step no more often: single steps would fill a log file."""


class PlainProgress:
    """Progress as plain lines, for pipes and log files: stages, sentences and, where a stage takes long, some steps.

    Args:
        stream: where to.
        clock: seconds, never going back.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._began: float | None = None
        self._steps: int | None = None
        self._step = 0
        self._said = 0.0

    def stage(self, title: str, steps: int | None = None) -> None:
        """Print the stage's title."""
        self.close()
        self._began = self._clock()
        self._steps, self._step = steps, 0
        self.say(title)

    def step(self, text: str) -> None:
        """Count a step, and print it if nothing was printed for a while."""
        self._step += 1
        if self._clock() - self._said >= STEP_PERIOD_S:
            self.say(f"  {self._step} of {self._steps}: {text}" if self._steps else f"  {text}")

    def say(self, text: str) -> None:
        """Print the sentence on a line of its own."""
        self._said = self._clock()
        print(f"autellix: {text}", file=self._stream, flush=True)

    def close(self) -> None:
        """Print how long the last stage took."""
        if self._began is not None:
            self.say(f"  done in {self._clock() - self._began:.0f} s")
            self._began = None
