"""What one tenant may ask for: calls and tokens a minute, calls at a time, programs at a time. Pure: `now` is given."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

_MINUTE_S = 60.0
_ROUNDING = 1e-6
_RETRY_S = 1.0
"""When to try again where nobody can know: calls and programs end when they end."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one tenant; `None`: there is none.

    Attributes:
        calls_per_minute: calls, 1 or more; as many may come at once after a minute of rest.
        tokens_per_minute: prompt and output tokens, 1 or more; charged when a call completes, so that the last call may
            overdraw the account: then none comes in until that is paid off.
        concurrent_calls: calls in flight, 1 or more.
        programs: programs that live, 1 or more.
    """

    calls_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_calls: int | None = None
    programs: int | None = None


NO_LIMITS = Limits()
"""Of the tenant without a name, and of those whose entry names none."""


@dataclass(frozen=True, slots=True)
class OverLimit:
    """Why a call was refused.

    Attributes:
        limit: name of the field of `Limits`.
        allowed: its value.
        retry_s: after so many seconds the call would be let in if nothing else came; for limits on what is there at a
            time, which end when they end, a guess.
    """

    limit: str
    allowed: int
    retry_s: float

    def __str__(self) -> str:
        return f"over the limit of {self.allowed} {self.limit.replace('_', ' ')} of this API key's tenant"

    @property
    def retry_after_s(self) -> int:
        """Value of the header ``Retry-After``: whole seconds, 1 or more."""
        return max(1, ceil(self.retry_s))


@dataclass(slots=True)
class _Bucket:
    """A token bucket that holds a minute's worth, full at first.

    Attributes:
        spent: what is missing; more than the bucket holds: overdrawn.
        as_of_s: as of when.
    """

    spent: float = 0.0
    as_of_s: float = 0.0

    def wait_s(self, per_minute: int, needed: float, now: float) -> float:
        """Return in how many seconds it holds `needed`; 0: it does."""
        self._refill(per_minute, now)
        short = self.spent + needed - per_minute
        return short * _MINUTE_S / per_minute if short > _ROUNDING else 0.0

    def take(self, per_minute: int, amount: float, now: float) -> None:
        """Take out `amount`, also what is not there."""
        self._refill(per_minute, now)
        self.spent += amount

    def _refill(self, per_minute: int, now: float) -> None:
        self.spent = max(0.0, self.spent - max(0.0, now - self.as_of_s) * per_minute / _MINUTE_S)
        self.as_of_s = max(self.as_of_s, now)


@dataclass(slots=True)
class _Usage:
    """What one tenant uses now."""

    calls: _Bucket
    tokens: _Bucket
    in_flight: int = 0
    programs: int = 0


class Limiter:
    """Keeps account of what tenants use. One writer. Remembers a few numbers for each tenant that was ever let in."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Usage] = {}

    def admit(self, tenant: str, limits: Limits, now: float, *, new_program: bool) -> OverLimit | None:
        """Let a call in and count it, or say what stands against it, and count nothing.

        Args:
            tenant: whose call it is.
            limits: of that tenant; they may change from call to call.
            now: seconds, never going back.
            new_program: its program does not live yet.

        Returns:
            `None`: it is in; exactly one `release` must follow.
        """
        usage = self._tenants.get(tenant) or _Usage(_Bucket(as_of_s=now), _Bucket(as_of_s=now))
        refusal = _refusal(usage, limits, now, new_program=new_program)
        if refusal is None:
            self._tenants[tenant] = usage
            usage.in_flight += 1
            usage.programs += new_program
            if limits.calls_per_minute is not None:
                usage.calls.take(limits.calls_per_minute, 1, now)
        return refusal

    def release(self, tenant: str, limits: Limits, tokens: int, now: float) -> None:
        """Count a call out and charge its tokens, prompt and output.

        Args:
            tenant: as it was let in.
            limits: of that tenant.
            tokens: 0 or more; 0 where there is no bill.
            now: seconds, never going back.
        """
        usage = self._tenants[tenant]
        usage.in_flight -= 1
        if limits.tokens_per_minute is not None:
            usage.tokens.take(limits.tokens_per_minute, tokens, now)

    def open_program(self, tenant: str, limits: Limits, now: float) -> OverLimit | None:
        """Count a program in that is opened without a call, or say what stands against it."""
        usage = self._tenants.get(tenant) or _Usage(_Bucket(as_of_s=now), _Bucket(as_of_s=now))
        if limits.programs is not None and usage.programs >= limits.programs:
            return OverLimit("programs", limits.programs, _RETRY_S)
        self._tenants[tenant] = usage
        usage.programs += 1
        return None

    def program_ended(self, tenant: str) -> None:
        """Count a program out, whatever ended it."""
        self._tenants[tenant].programs -= 1


def _refusal(usage: _Usage, limits: Limits, now: float, *, new_program: bool) -> OverLimit | None:
    """Return the limit that a call is over; of several rates the one that takes longest."""
    if limits.concurrent_calls is not None and usage.in_flight >= limits.concurrent_calls:
        return OverLimit("concurrent_calls", limits.concurrent_calls, _RETRY_S)
    if new_program and limits.programs is not None and usage.programs >= limits.programs:
        return OverLimit("programs", limits.programs, _RETRY_S)
    over = []
    for name, bucket, needed in (("calls_per_minute", usage.calls, 1), ("tokens_per_minute", usage.tokens, 0)):
        per_minute: int | None = getattr(limits, name)
        if per_minute is not None and (wait_s := bucket.wait_s(per_minute, needed, now)) > 0:
            over.append(OverLimit(name, per_minute, wait_s))
    return max(over, key=lambda one: one.retry_s, default=None)
