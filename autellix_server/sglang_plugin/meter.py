"""Where the time of one engine request went, kept as it happens. Pure: every method takes the time.

A request's life in the scheduler is one unbroken line from arrival to finish. Each step it took part in claims its own
stretch of that line, and every gap between steps is waiting, with its cause. Hence the parts add up exactly.

Source: Autellix section 4.1 (service time excludes queueing). Differs: a request is charged the full wall time of each
step it took part in, prefill included, because that is what it denies to others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ADMISSION = "admission"
RETRACTION = "retraction"
BATCH = "batch"


@dataclass(slots=True)
class RequestMeter:
    """Account of one engine request, in microseconds of one monotonic clock.

    Attributes:
        arrived_us: when the scheduler received the request.
        settled_us: the line is accounted for up to here.
        queued_us: waiting time by cause.
        prefill_us, decode_us: time of the steps it took part in.
        retractions: times the engine took its memory back while it ran.
        recomputed_tokens: tokens prefilled again after a retraction.
        swapped_tokens: tokens that were loaded back from host memory after a retraction.
    """

    arrived_us: int
    settled_us: int
    queued_us: dict[str, int] = field(default_factory=dict)
    prefill_us: int = 0
    decode_us: int = 0
    retractions: int = 0
    recomputed_tokens: int = 0
    swapped_tokens: int = 0
    _cause: str = ADMISSION
    _computed: int = 0

    def step(self, start_us: int, end_us: int, *, prefilled: range, retractions: int, left: bool) -> None:
        """Account for a step that ended at `end_us`, and for the wait before it.

        Args:
            start_us: when the step began; what lies before it is waiting.
            end_us: when its result was there; not before `start_us` or the previous step's end.
            prefilled: positions of the request's tokens that the step computed as a prompt; empty in a decode step.
            retractions: how often the engine has retracted the request so far.
            left: it was retracted after this step was launched, and waits.
        """
        if retractions > self.retractions and not left:
            self._cause = RETRACTION
        self.retractions = retractions
        start_us = max(start_us, self.settled_us)
        self._wait(start_us)
        if prefilled:
            self.prefill_us += end_us - start_us
            self.recomputed_tokens += len(range(prefilled.start, min(prefilled.stop, self._computed)))
            self._computed = max(self._computed, prefilled.stop)
        else:
            self.decode_us += end_us - start_us
            self._computed += 1
        self.settled_us = end_us
        self._cause = RETRACTION if left else BATCH

    def finish(self, now_us: int) -> None:
        """Close the account; whatever is not settled was waiting."""
        self._wait(now_us)
        self.settled_us = now_us

    def _wait(self, until_us: int) -> None:
        if until_us > self.settled_us:
            self.queued_us[self._cause] = self.queued_us.get(self._cause, 0) + until_us - self.settled_us
