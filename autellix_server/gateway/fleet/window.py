"""How many calls to have at a time in an engine that has no planner of ours, learned from latency. Pure.

An engine runs as many calls at a time as it has slots and memory for; more of them only wait inside it, where nobody
orders them by program. Whether they wait shows in the time to the first byte alone: the rest of a call's time grows
with the batch as well, and throughput with it. So the wait is what first bytes take longer than they do at half the
window, for prompts of similar length. By Little's law its share of the time that calls spend in the engine is the share
of the window that waits there, and the window follows that share.

Source: Little's law; TCP Vegas (Brakmo and Peterson, 1994), which compares latency with the best that was seen.
Differs: only the first byte is compared, and with what was measured lately at half the window, not with a minimum:
whatever makes first bytes slow without a queue (long prompts, a slower engine, noise) is in both and cancels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression, median, pstdev

from autellix_sdk.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """Bounds of a window, and what it is after.

    Attributes:
        fixed: calls at a time; `None`: learned.
        initial: where learning begins.
        least, most: bounds of what is learned; the least is 2, since it is half a window that is looked back at.
        low, high: share of calls' time in the engine that they wait there, between which the window stays: a few calls
            that wait keep all slots busy.
        memory: calls after which what was measured at half the window is measured anew.

    Raises:
        ConfigurationError: a value is out of range; the message names it.
    """

    fixed: int | None = None
    initial: int = 8
    least: int = 2
    most: int = 512
    low: float = 0.1
    high: float = 0.2
    memory: int = 512

    def __post_init__(self) -> None:
        if self.fixed is not None and self.fixed < 1:
            raise ConfigurationError(f"fixed must be at least 1, got {self.fixed}")
        if not 2 <= self.least <= self.initial <= self.most:
            raise ConfigurationError(
                f"least, initial and most must be ascending from 2, got {self.least}, {self.initial} and {self.most}"
            )
        if not 0 < self.low < self.high < 1:
            raise ConfigurationError(f"low and high must be between 0 and 1, got {self.low} and {self.high}")
        if self.memory < _EPOCH:
            raise ConfigurationError(f"memory must be at least {_EPOCH}, got {self.memory}")


_EPOCH = 16
"""Calls from which anything is concluded, at the least."""

_FULL, _HALF, _LEAST_HALF = 0.8, 0.5, 0.25
"""Parts of the window that must have been in use for a call to tell how it is when it is full, and half full."""

_STILL_HALF = 0.7
"""Part of a window that has become smaller up to which a call tells that still."""

_LEAST_SPREAD = 0.25
"""Deviation of the lengths of answers, by their mean, from which on they can be told from the wait."""

_GROWTH = 1.5
"""By how much it grows at once, until it has been too large for the first time."""

_STEADY_GROWTH = 1.1
_MOST_CUT = 0.7


@dataclass(frozen=True, slots=True)
class Sent:
    """A call that was sent to the engine.

    Attributes:
        in_flight: calls in the engine from then on, this one included.
        era: counts changes of the window.
    """

    in_flight: int
    era: int


@dataclass(frozen=True, slots=True)
class Answered:
    """How a call was answered.

    Attributes:
        total_s: from sending it to the end of the answer.
        first_byte_s: from sending it to the first byte of the answer's body; `None` if it came in one piece.
        prompt_tokens: length of its prompt; an estimate will do.
        output_tokens: length of its answer; 0: not known.
    """

    total_s: float
    first_byte_s: float | None
    prompt_tokens: int
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Sample:
    sent: Sent
    answered: Answered
    number: int

    @property
    def similar(self) -> int:
        """Prompts of about the same length have the same."""
        return self.answered.prompt_tokens.bit_length()


class Window:
    """The window of one engine. One thread.

    Answers in one piece have no first byte to go by. What they took is then split by their lengths: what is left when
    every token of the answers has its part. That takes answers of different lengths; without them the window stays.

    It goes back to half its size now and then, for some twenty calls of every `memory`, unless there was as little to
    do by itself; and it never grows on account of calls that did not need it.

    Args:
        settings: bounds.
    """

    def __init__(self, settings: WindowSettings | None = None) -> None:
        self.settings = settings or WindowSettings()
        self.in_flight = 0
        """Calls in the engine."""
        self._size = float(self.settings.initial)
        self._era = 0
        self.looking_back = False
        """It is at half its size for now, to measure what first bytes take there."""
        self._steady = False  # it has been too large once
        self._numbers = 0
        self._full: list[_Sample] = []
        self._half: deque[_Sample] = deque(maxlen=4 * _EPOCH)

    @property
    def slots(self) -> int:
        """Calls that the engine may have at a time now."""
        if self.settings.fixed is not None:
            return self.settings.fixed
        return int(_HALF * self._size) if self.looking_back else int(self._size)

    @property
    def free(self) -> int:
        """Calls that may be sent now; 0 as well if there are more than there should be."""
        return max(0, self.slots - self.in_flight)

    def sent(self) -> Sent:
        """Note that a call is sent; `answered` or `left` must follow."""
        self.in_flight += 1
        return Sent(self.in_flight, self._era)

    def left(self) -> None:
        """Note that a call is gone without an answer to learn from: its client left, it failed or was refused."""
        self.in_flight -= 1

    def answered(self, sent: Sent, answered: Answered) -> None:
        """Note that a call was answered, and learn from it."""
        self.in_flight -= 1
        if self.settings.fixed is not None:
            return
        self._numbers += 1
        sample = _Sample(sent, answered, self._numbers)
        if _LEAST_HALF * self._size <= sent.in_flight <= _HALF * self._size:
            self._half.append(sample)
        elif sent.era == self._era and sent.in_flight >= _FULL * self._size:
            self._full.append(sample)
        self._learn()

    def _learn(self) -> None:
        while self._half and self._half[0].number <= self._numbers - self.settings.memory:
            self._half.popleft()
        if self.looking_back:
            if len(self._half) < _EPOCH:
                return
            self.looking_back = False
        elif len(self._full) < max(_EPOCH, self._size):
            return
        else:
            half = [sample for sample in self._half if sample.sent.in_flight <= _STILL_HALF * self._size]
            if len(half) >= _EPOCH:
                self._conclude(half)
            else:
                self.looking_back = True
                self._half.clear()
        self._era += 1
        self._full.clear()

    def _conclude(self, half: Sequence[_Sample]) -> None:
        share = _waiting_share(half, self._full)
        if share is None:
            return
        settings = self.settings
        if share > settings.high:
            self._steady = True
            aim = 1 - share + (settings.low + settings.high) / 2
            self._size *= max(_MOST_CUT, aim)
        elif share < settings.low:
            self._size = max(self._size + 1, self._size * (_STEADY_GROWTH if self._steady else _GROWTH))
        self._size = min(max(self._size, settings.least), settings.most)


def _waiting_share(half: Sequence[_Sample], full: Sequence[_Sample]) -> float | None:
    """Return the share of their time that the calls of a full window waited; `None` if nothing is comparable."""
    usual = {kind: median(times) for kind, times in _first_bytes(half).items()}
    excess = [time - usual[kind] for kind, times in _first_bytes(full).items() if kind in usual for time in times]
    if len(excess) < _EPOCH / 2:
        return None
    total_s = fmean(sample.answered.total_s for sample in full)
    return max(0.0, median(excess)) / total_s if total_s > 0 else 0.0


def _first_bytes(samples: Sequence[_Sample]) -> dict[int, list[float]]:
    """Return the seconds to the first bytes of calls, or to what would have been one, by kind of prompt."""
    found: dict[int, list[float]] = {}
    whole = [sample for sample in samples if sample.answered.first_byte_s is None and sample.answered.output_tokens]
    token_s = _token_s([(sample.answered.output_tokens, sample.answered.total_s) for sample in whole])
    for sample in samples:
        answered, first_s = sample.answered, sample.answered.first_byte_s
        if first_s is None and token_s is not None and answered.output_tokens:
            first_s = max(0.0, answered.total_s - token_s * answered.output_tokens)
        if first_s is not None:
            found.setdefault(sample.similar, []).append(first_s)
    return found


def _token_s(points: Sequence[tuple[int, float]]) -> float | None:
    """Return by how many seconds answers take longer per token (least squares); `None` if they are too much alike."""
    if len(points) < _EPOCH / 2:
        return None
    tokens, seconds = zip(*points, strict=True)
    if pstdev(tokens) < _LEAST_SPREAD * fmean(tokens):
        return None
    return max(0.0, linear_regression(tokens, seconds).slope)
