"""KV of one engine, counted in tokens: pinned by running calls, cached on the device, parked on the host."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from autellix_sdk.wire import ProgramId

CallKey = TypeVar("CallKey", bound=Hashable)
"""Stands for a call; not a string, which stands for a program."""


@dataclass(frozen=True, slots=True)
class Parked:
    """What is left of a preempted call's own KV.

    Attributes:
        tokens: tokens that need not be computed again.
        on_host: they are on the host and must come back before the call runs.
    """

    tokens: int
    on_host: bool


class KvPool(Generic[CallKey]):
    """The KV pool of one engine.

    A running call pins its own tokens and the part of its program's history that it shares; what no running call pins
    stays cached until room is needed, least recently used first. A program's history is kept as one prefix tree of
    which only the size is known: a call finds as much of its shared prefix as there are tokens left in the tree.
    A preempted call's own tokens are cached like histories, but go to the host instead of being dropped, while the host
    has room. ``pinned + cached <= tokens`` after `evict`.

    Args:
        tokens: size of the pool on the device.
        host_tokens: size of the pool on the host.
    """

    def __init__(self, tokens: int, host_tokens: int) -> None:
        self.tokens = tokens
        self.host_tokens = host_tokens
        self.pinned = 0
        self.shared = 0
        """The part of `pinned` that is histories, which running calls may share."""
        self.cached = 0
        self.parked = 0
        """The part of `cached` that preempted calls come back for."""
        self.on_host = 0
        # Cached tokens by program (histories) and by call (preempted ones), least recently used first.
        self._cached: OrderedDict[ProgramId | CallKey, int] = OrderedDict()
        self._host: dict[CallKey, int] = {}
        # What each running call of a program shares; the largest of them is pinned.
        self._holds: dict[ProgramId, list[int]] = {}

    def history_tokens(self, program: ProgramId) -> int:
        """Return how much of the program's history is on the device."""
        return max(self._holds.get(program, ()), default=0) + self._cached.get(program, 0)

    def pin(self, program: ProgramId, shared_tokens: int, context_tokens: int) -> int:
        """Pin a call's `context_tokens`, of which up to `shared_tokens` are its program's history.

        Returns:
            How many tokens of history there were. The call's own tokens are the others, computed or not.
        """
        holds = self._holds.setdefault(program, [])
        held = max(holds, default=0)
        cached = self._cached.get(program, 0)
        hit = min(shared_tokens, held + cached)
        if hit > held:
            self._uncache(program, hit - held)
            self.shared += hit - held
            self.pinned += hit - held
        holds.append(hit)
        self.pinned += context_tokens - hit
        return hit

    def grow(self, tokens: int) -> None:
        """Pin `tokens` that running calls produced; histories make room."""
        self.pinned += tokens
        if self.pinned + self.cached > self.tokens:
            self.evict(self.tokens)

    def finish(self, program: ProgramId, hit: int, own_tokens: int) -> None:
        """Unpin a call that is done; its own tokens join its program's history.

        Args:
            program: the call's program.
            hit: as returned by `pin`.
            own_tokens: its pinned tokens beyond those.
        """
        self._release(program, hit)
        self.pinned -= own_tokens
        self._cache(program, own_tokens)

    def park(self, call: CallKey, program: ProgramId, hit: int, own_tokens: int, computed_tokens: int) -> None:
        """Unpin a preempted call and cache what it had computed.

        Args:
            call: stands for the call until `unpark`.
            program: its program.
            hit: as returned by `pin`.
            own_tokens: its pinned tokens beyond those.
            computed_tokens: how many of its own tokens hold KV.
        """
        self.pinned -= own_tokens
        if computed_tokens:
            self.parked += computed_tokens
            self._cache(call, computed_tokens)
        # After the call's own tokens, so that the prefix is evicted after what builds on it.
        self._release(program, hit)

    def unpark(self, call: CallKey) -> Parked:
        """Take out what is left of a preempted call; pin its context next."""
        if call in self._host:
            tokens = self._host.pop(call)
            self.on_host -= tokens
            return Parked(tokens, on_host=True)
        tokens = self._cached.get(call, 0)
        if tokens:
            self.parked -= tokens
            self._uncache(call, tokens)
        return Parked(tokens, on_host=False)

    def evict(self, limit: int) -> list[tuple[CallKey, int]]:
        """Evict cached tokens until no more than `limit` are in use on the device.

        Returns:
            The preempted calls that moved to the host, each with its tokens. Those that did not fit are lost.
        """
        moved: list[tuple[CallKey, int]] = []
        excess = self.pinned + self.cached - limit
        while excess > 0 and self._cached:
            key, tokens = next(iter(self._cached.items()))
            if not isinstance(key, str):
                self.parked -= tokens
                if self.on_host + tokens <= self.host_tokens:
                    self._host[key] = tokens
                    self.on_host += tokens
                    moved.append((key, tokens))
            else:
                tokens = min(tokens, excess)
            self._uncache(key, tokens)
            excess -= tokens
        return moved

    def _release(self, program: ProgramId, hit: int) -> None:
        """Drop one call's hold on its program's history; what nobody holds is cached."""
        holds = self._holds[program]
        held = max(holds)
        holds.remove(hit)
        if not holds:
            del self._holds[program]
        freed = held - max(holds, default=0)
        self.shared -= freed
        self.pinned -= freed
        self._cache(program, freed)

    def _cache(self, key: ProgramId | CallKey, tokens: int) -> None:
        if tokens:
            self._cached[key] = self._cached.get(key, 0) + tokens
            self._cached.move_to_end(key)
            self.cached += tokens

    def _uncache(self, key: ProgramId | CallKey, tokens: int) -> None:
        self.cached -= tokens
        left = self._cached[key] - tokens
        if left:
            self._cached[key] = left
        else:
            del self._cached[key]
