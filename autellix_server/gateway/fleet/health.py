"""Health of one engine, from traffic and from probes: a circuit breaker. Pure: `now` is a parameter."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields
from enum import StrEnum
from hashlib import blake2b
from math import inf

from autellix_sdk.errors import ConfigurationError


class BreakerState(StrEnum):
    """What an engine gets.

    Attributes:
        CLOSED: calls.
        OPEN: nothing, until its back-off is over.
        HALF_OPEN: one call at a time, on trial; the first that is good closes the breaker.
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a breaker opens, and for how long.

    Attributes:
        consecutive: failures in a row, of calls or of probes, that open it.
        failure_share: share of the calls within the window that failed, from which on it opens; over 1: never.
        least_calls: calls within the window without which their share says nothing.
        window_s: length of the window.
        slow_s: a first byte that took longer counts as a failure; ``inf``: none does.
        back_off_s: how long it stays open the first time; twice as long each time it opens again.
        back_off_cap_s: the longest.
        jitter: part of the back-off by which engines differ, so that they do not all come back at once; 0 to 1.
        trial_s: a call on trial without an answer for this long makes way for another one.

    Raises:
        ConfigurationError: a value is out of range; the message names it.
    """

    consecutive: int = 3
    failure_share: float = 0.5
    least_calls: int = 10
    window_s: float = 30.0
    slow_s: float = inf
    back_off_s: float = 1.0
    back_off_cap_s: float = 60.0
    jitter: float = 0.2
    trial_s: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= (0 if field.name == "jitter" else _LEAST):
                raise ConfigurationError(f"{field.name} must be positive, got {getattr(self, field.name)}")
        if self.jitter > 1:
            raise ConfigurationError(f"jitter must be at most 1, got {self.jitter}")
        if self.back_off_cap_s < self.back_off_s:
            raise ConfigurationError(
                f"back_off_cap_s must be at least back_off_s, got {self.back_off_cap_s} and {self.back_off_s}"
            )


_LEAST = 1e-9
_BUCKETS = 10


class Breaker:
    """The circuit breaker of one engine. One thread; times never go back.

    Every call that is sent to the engine gets an era, to be given back with what became of it: what was sent before
    the breaker opened says nothing about the engine after that.

    Args:
        engine: its name; it decides about the jitter.
        settings: see there.
    """

    def __init__(self, engine: str, settings: BreakerSettings | None = None) -> None:
        self.settings = settings or BreakerSettings()
        self.reason = ""
        """Why it opened last; empty if it never did."""
        self._engine = engine
        self._era = 0
        self._open_until_s: float | None = None  # `None`: closed
        self._openings = 0  # in a row; they make the back-off longer
        self._closed_s = -inf
        self._trial_s: float | None = None
        self._failed_calls = 0
        self._failed_probes = 0
        self._calls = _Window(self.settings.window_s)

    def state(self, now: float) -> BreakerState:
        """Return what the engine gets."""
        if self._open_until_s is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until_s else BreakerState.HALF_OPEN

    def admits(self, now: float) -> bool:
        """Return whether a call may be sent now."""
        state = self.state(now)
        on_trial = self._trial_s is not None and now < self._trial_s + self.settings.trial_s
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and not on_trial)

    def back_off_ends_s(self, now: float) -> float:
        """Return when calls may be sent again; `now` if they may."""
        return now if self._open_until_s is None else max(now, self._open_until_s)

    def sent(self, now: float) -> int:
        """Note that a call is sent, and return its era."""
        if self.state(now) is BreakerState.HALF_OPEN:
            self._trial_s = now
        return self._era

    def answered(self, era: int, first_byte_s: float, now: float) -> None:
        """Note that a call was answered, whatever its status says about the call.

        Args:
            era: as returned by `sent`.
            first_byte_s: seconds from sending it to the first byte of the answer's body.
            now: seconds.
        """
        if era != self._era:
            return
        if first_byte_s > self.settings.slow_s:
            self._call_failed(f"a first byte took {first_byte_s:.1f} s", now)
            return
        self._failed_calls = 0
        self._calls.add(now, failed=False)
        if self.state(now) is not BreakerState.CLOSED:
            self._close(now)

    def failed(self, era: int, reason: str, now: float) -> None:
        """Note that a call failed by the engine's fault: no connection, no answer, an answer cut short, or status 5xx.

        Args:
            era: as returned by `sent`.
            reason: what happened, for the log.
            now: seconds.
        """
        if era == self._era:
            self._call_failed(reason, now)

    def left(self, era: int) -> None:
        """Note that a call's client went away, which says nothing about the engine."""
        if era == self._era:
            self._trial_s = None

    def probed(self, complaint: str | None, now: float) -> None:
        """Note what a probe has shown; one that was good does not make up for calls that fail.

        Args:
            complaint: what is wrong; `None`: nothing.
            now: seconds.
        """
        if complaint is None:
            self._failed_probes = 0
            if self.state(now) is BreakerState.HALF_OPEN:
                self._close(now)
            return
        self._failed_probes += 1
        state = self.state(now)
        if state is BreakerState.HALF_OPEN or (
            state is BreakerState.CLOSED and self._failed_probes >= self.settings.consecutive
        ):
            self._open(f"probe: {complaint}", now)

    def _call_failed(self, reason: str, now: float) -> None:
        self._failed_calls += 1
        self._calls.add(now, failed=True)
        calls, failures = self._calls.count(now)
        settings = self.settings
        many = calls >= settings.least_calls and failures >= settings.failure_share * calls
        if self.state(now) is BreakerState.HALF_OPEN or many or self._failed_calls >= settings.consecutive:
            self._open(reason, now)

    def _open(self, reason: str, now: float) -> None:
        # Who stayed closed for a whole window has earned the shortest back-off again.
        calm = self._open_until_s is None and now - self._closed_s >= self.settings.window_s
        self._openings = 1 if calm else self._openings + 1
        self._open_until_s = now + back_off_s(self.settings, self._engine, self._openings)
        self._era += 1
        self._start_afresh()
        self.reason = reason

    def _close(self, now: float) -> None:
        self._open_until_s = None
        self._closed_s = now
        self._era += 1
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._trial_s = None
        self._failed_calls = self._failed_probes = 0
        self._calls = _Window(self.settings.window_s)


def back_off_s(settings: BreakerSettings, engine: str, openings: int) -> float:
    """Return how long a breaker stays open.

    Args:
        settings: of the breaker.
        engine: its engine's name; with the number of openings it decides about the jitter, which only shortens.
        openings: how often it opened in a row, this time included; 1 or more.
    """
    digest = blake2b(f"{engine}\0{openings}".encode(), digest_size=4).digest()
    share = int.from_bytes(digest, "big") / 2**32
    # Beyond 2**60 the cap has long been reached.
    longest = min(settings.back_off_cap_s, settings.back_off_s * 2.0 ** min(openings - 1, 60))
    return longest * (1 - settings.jitter * share)


class _Window:
    """Counts calls and failures of the last seconds, in buckets: memory does not grow with traffic."""

    def __init__(self, length_s: float) -> None:
        self._bucket_s = length_s / _BUCKETS
        self._buckets: deque[list[int]] = deque()  # bucket number, calls, failures

    def add(self, now: float, *, failed: bool) -> None:
        number = int(now // self._bucket_s)
        if not self._buckets or self._buckets[-1][0] != number:
            self._forget(number)
            self._buckets.append([number, 0, 0])
        self._buckets[-1][1] += 1
        self._buckets[-1][2] += failed

    def count(self, now: float) -> tuple[int, int]:
        """Return calls and failures."""
        self._forget(int(now // self._bucket_s))
        return sum(bucket[1] for bucket in self._buckets), sum(bucket[2] for bucket in self._buckets)

    def _forget(self, number: int) -> None:
        while self._buckets and self._buckets[0][0] <= number - _BUCKETS:
            self._buckets.popleft()
