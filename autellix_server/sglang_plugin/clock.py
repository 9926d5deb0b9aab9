"""What the planner is told of time: now, and how long each step took. The same on every rank.

With tensor parallelism every rank has a scheduler, a plugin and a planner of its own, and all must decide alike: a rank
that runs another batch than its peers computes nonsense with them, or waits for them without end. They get the same
requests in the same order and take the same steps, but no two measure the same times. So rank 0 sends what it measured
with the requests of each pass, and every rank, rank 0 included, takes that over on receiving it. Thereby a step is
charged at the beginning of the pass after it ended, at the same point of every rank's life.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Step = TypeVar("Step")


@dataclass(frozen=True, slots=True)
class Reading:
    """What rank 0 read off its clock in one pass.

    Attributes:
        now_us: the time, in microseconds of that rank's monotonic clock.
        steps_us: lengths of the steps that ended since the reading before, in order.
    """

    now_us: int
    steps_us: tuple[int, ...]


class PlannerClock(Generic[Step]):
    """Tells the planner of one scheduler process the time. Single-threaded.

    A scheduler without peers goes by its own clock, and its steps are charged as they end.

    Args:
        now_us: this process's monotonic clock in whole microseconds.
        charge: takes over a step that ended: what is known of it, and its length in microseconds.
    """

    def __init__(self, now_us: Callable[[], int], charge: Callable[[Step, int], None]) -> None:
        self._own_us = now_us
        self._charge = charge
        self._reading: Reading | None = None
        # Of several ranks: steps that ended since the last reading, with their lengths by this rank's own clock.
        self._uncharged: list[tuple[Step, int]] = []

    def now_us(self) -> int:
        """Return the time in whole microseconds; of several ranks, as of the pass that is under way."""
        return self._own_us() if self._reading is None else self._reading.now_us

    def step_ended(self, step: Step, length_us: int) -> None:
        """Charge for a step, of several ranks as soon as rank 0 has told its length.

        Args:
            step: what is known of it, the same on every rank.
            length_us: wall time by this process's clock.
        """
        if self._reading is None:
            self._charge(step, length_us)
        else:
            self._uncharged.append((step, length_us))

    def receive(
        self, original: Callable[..., Any], receiver: Any, recv_reqs: list[Any] | None, local_reqs: Any = None
    ) -> Any:
        """AROUND `SchedulerRequestReceiver._broadcast_reqs_across_ranks`: send a reading along, and take it over.

        Raises:
            ValueError: this rank took another number of steps than rank 0, so that the two no longer decide alike.
        """
        if receiver.server_args.tp_size == 1:
            return original(receiver, recv_reqs, local_reqs)
        # Only the rank that read the sockets, rank 0, has a list here.
        sent = None if recv_reqs is None else [self._read(), *recv_reqs]
        self._reading, *received = original(receiver, sent, local_reqs)
        ended, self._uncharged = self._uncharged, []
        if len(ended) != len(self._reading.steps_us):
            raise ValueError(f"ranks differ: {len(ended)} steps here, {len(self._reading.steps_us)} on rank 0")
        for (step, _), length_us in zip(ended, self._reading.steps_us, strict=True):
            self._charge(step, length_us)
        return received

    def _read(self) -> Reading:
        return Reading(self._own_us(), tuple(length_us for _, length_us in self._uncharged))
