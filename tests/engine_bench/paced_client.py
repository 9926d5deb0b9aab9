"""A server in virtual time: first tokens after a while, then one for each call at a pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autellix_server.calibration.client import Answer


@dataclass
class PacedClient:
    """Answers at once, with times as if it had taken as long as it says. Satisfies `calibration.client.Client`.

    Attributes:
        first_s: seconds to the first token.
        step_s: seconds between tokens.
        cached_tokens: of every prompt.
        late_s: each further call of a batch begins so much later.
        prompts: all that it was asked.
    """

    first_s: float = 0.5
    step_s: float = 0.1
    cached_tokens: int | None = None
    late_s: float = 0.0
    prompts: list[tuple[int, ...]] = field(default_factory=list)

    async def complete(self, prompt: Sequence[int], output_tokens: int) -> Answer:
        """Answer; see the class."""
        late_s = self.late_s * len(self.prompts)
        self.prompts.append(tuple(prompt))
        begin_s = self.first_s + late_s
        times = tuple((begin_s + self.step_s * number, number + 1) for number in range(output_tokens))
        return Answer(0.0, times, self.cached_tokens)


class _Silent:
    """A progress that nobody sees."""

    def stage(self, title: str, steps: int | None = None) -> None:
        """Say nothing."""

    def step(self, text: str) -> None:
        """Say nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


SILENT = _Silent()
