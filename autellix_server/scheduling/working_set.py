"""Working-set admission: no more programs at a time than the device can keep the KV of."""

from __future__ import annotations

from collections import OrderedDict

from autellix_sdk.wire import ProgramId


class WorkingSet:
    """The programs whose KV is kept on the device, between their calls too.

    A program joins when one of its calls is admitted, and stays until it ends or has been idle for too long while
    others want in. A call of a program that does not fit beside the members is passed over, so that members' calls
    behind it go on; in what order calls are looked at is the policy's business. Choose it where programs pause briefly
    between calls and the cache is too small for all of them: then each call pushes out what another program comes back
    for. Do not choose it where pauses are long: the device stands empty for the absent.

    A program's share is the KV of its largest call in flight or, between calls, of its last one. Calls in parallel
    mostly share a prefix, and are not added up. Members may grow beyond the limit; then nobody joins.

    Source: Denning, The Working Set Model for Program Behavior. Differs from Autellix, which keeps nothing of a program
    between its calls.

    Args:
        share: part of the device's tokens that the members may take; `None`: no limit, and nothing is remembered.
        idle_s: a member without a call for longer makes way.
    """

    def __init__(self, share: float | None, idle_s: float) -> None:
        self._share = share
        self._idle_s = idle_s
        self._tokens: dict[ProgramId, int] = {}
        self._total = 0
        self._idle_since: OrderedDict[ProgramId, float] = OrderedDict()

    def admits(self, program: ProgramId, kv_tokens: int, device_tokens: int, now: float) -> bool:
        """Return whether a call of `program` that would hold `kv_tokens` may run."""
        if self._share is None or program in self._tokens:
            return True
        limit = self._share * device_tokens
        while self._tokens and self._total + kv_tokens > limit:
            idle, since = next(iter(self._idle_since.items()), (program, now))
            if now - since <= self._idle_s:
                return False
            self.forget(idle)
        return True

    def join(self, program: ProgramId, kv_tokens: int) -> None:
        """Note that a call of `program` is admitted."""
        if self._share is not None:
            self._idle_since.pop(program, None)
            self._set(program, max(kv_tokens, self._tokens.get(program, 0)))

    def rest(self, program: ProgramId, kv_tokens: int, now: float) -> None:
        """Note that the last call in flight of `program` is gone, and what it held."""
        if program in self._tokens:
            self._set(program, kv_tokens)
            self._idle_since[program] = now

    def forget(self, program: ProgramId) -> None:
        """Note that `program` ended."""
        self._total -= self._tokens.pop(program, 0)
        self._idle_since.pop(program, None)

    def _set(self, program: ProgramId, tokens: int) -> None:
        self._total += tokens - self._tokens.get(program, 0)
        self._tokens[program] = tokens
