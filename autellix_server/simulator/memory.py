"""KV of one engine, counted in tokens: pinned by running calls, cached or held on the device, kept on the host."""

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


class HostPool(Generic[CallKey]):
    """The KV pool on the host: preempted calls' KV, which stays, and histories, which make way for it and for others.

    Args:
        tokens: its size.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.calls_tokens = 0
        """What preempted calls have here."""
        self._history_tokens = 0
        self._calls: dict[CallKey, int] = {}
        # Least recently used first.
        self._histories: OrderedDict[ProgramId, int] = OrderedDict()

    def keep_call(self, call: CallKey, tokens: int) -> bool:
        """Take in a preempted call's KV as a whole; return whether there is room."""
        if self.calls_tokens + tokens > self.tokens:
            return False
        self._calls[call] = tokens
        self.calls_tokens += tokens
        self._make_room()
        return True

    def take_call(self, call: CallKey) -> int:
        """Take out a preempted call's KV and return its tokens; 0 when it is not here."""
        tokens = self._calls.pop(call, 0)
        self.calls_tokens -= tokens
        return tokens

    def keep_history(self, program: ProgramId, tokens: int) -> None:
        """Take in tokens of a program's history, beside those that are here."""
        self._histories[program] = self._histories.pop(program, 0) + tokens
        self._history_tokens += tokens
        self._make_room()

    def take_history(self, program: ProgramId, tokens: int) -> int:
        """Take out up to `tokens` of a program's history and return how many there were."""
        kept = self._histories.get(program, 0)
        return self._drop(program, min(tokens, kept)) if kept else 0

    def forget(self, program: ProgramId) -> None:
        """Drop a program's history."""
        self._history_tokens -= self._histories.pop(program, 0)

    def _make_room(self) -> None:
        excess = self.calls_tokens + self._history_tokens - self.tokens
        while excess > 0:
            program, tokens = next(iter(self._histories.items()))
            excess -= self._drop(program, min(tokens, excess))

    def _drop(self, program: ProgramId, tokens: int) -> int:
        self._histories[program] -= tokens
        if not self._histories[program]:
            del self._histories[program]
        self._history_tokens -= tokens
        return tokens


class KvPool(Generic[CallKey]):
    """The KV pool of one engine.

    A running call pins its own tokens and the part of its program's history that it shares. What no running call pins
    stays cached until room is needed, least recently used first, and goes to the host then; a history may be held,
    which keeps it from that. A program's history is kept as one prefix tree of which only the size is known: a call
    finds as much of its shared prefix as there are tokens left in the tree. A preempted call's own tokens are cached
    like histories; where the host has no room for them they are lost.
    ``pinned + held + cached <= tokens`` after `evict`, unless what is pinned and held is more.

    Args:
        tokens: size of the pool on the device.
        host_tokens: size of the pool on the host.
    """

    def __init__(self, tokens: int, host_tokens: int) -> None:
        self.tokens = tokens
        self.host: HostPool[CallKey] = HostPool(host_tokens)
        self.pinned = 0
        self.shared = 0
        """The part of `pinned` that is histories, which running calls may share."""
        self.held = 0
        self.cached = 0
        self.parked = 0
        """The part of `cached` that preempted calls come back for."""
        # Cached tokens by program (histories) and by call (preempted ones), least recently used first.
        self._cached: OrderedDict[ProgramId | CallKey, int] = OrderedDict()
        self._held: dict[ProgramId, int] = {}
        # What each running call of a program shares; the largest of them is pinned.
        self._shares: dict[ProgramId, list[int]] = {}

    def history_tokens(self, program: ProgramId) -> int:
        """Return how much of the program's history is on the device."""
        pinned = max(self._shares.get(program, ()), default=0)
        return pinned + self._held.get(program, 0) + self._cached.get(program, 0)

    def hold(self, program: ProgramId) -> None:
        """Keep the history of a program of which nothing runs from being evicted."""
        self.release(program)
        tokens = self._held[program] = self._cached.pop(program, 0)
        self.cached -= tokens
        self.held += tokens

    def release(self, program: ProgramId) -> None:
        """End a hold, where there is one; the history counts as just used."""
        tokens = self._held.pop(program, 0)
        self.held -= tokens
        self._cache(program, tokens)

    def forget(self, program: ProgramId) -> None:
        """Drop the history of a program of which nothing runs: it has ended."""
        self.release(program)
        self.cached -= self._cached.pop(program, 0)
        self.host.forget(program)

    def bring_back(self, program: ProgramId, shared_tokens: int) -> int:
        """Cache what the host has of a program's history, as far as a call shares it; return the tokens moved."""
        tokens = self.host.take_history(program, max(0, shared_tokens - self.history_tokens(program)))
        self._cache(program, tokens)
        return tokens

    def pin(self, program: ProgramId, shared_tokens: int, context_tokens: int) -> int:
        """Pin a call's `context_tokens`, of which up to `shared_tokens` are its program's history.

        Returns:
            How many tokens of history there were. The call's own tokens are the others, computed or not.
        """
        self.release(program)
        shares = self._shares.setdefault(program, [])
        pinned = max(shares, default=0)
        cached = self._cached.get(program, 0)
        hit = min(shared_tokens, pinned + cached)
        if hit > pinned:
            self._uncache(program, hit - pinned)
            self.shared += hit - pinned
            self.pinned += hit - pinned
        shares.append(hit)
        self.pinned += context_tokens - hit
        return hit

    def grow(self, tokens: int) -> None:
        """Pin `tokens` that running calls produced; histories make room."""
        self.pinned += tokens
        if self.pinned + self.held + self.cached > self.tokens:
            self.evict(self.tokens)

    def finish(self, program: ProgramId, hit: int, own_tokens: int) -> None:
        """Unpin a call that is done; its own tokens join its program's history.

        Args:
            program: the call's program.
            hit: as returned by `pin`.
            own_tokens: its pinned tokens beyond those.
        """
        self._unshare(program, hit)
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
        self._unshare(program, hit)

    def unpark(self, call: CallKey) -> Parked:
        """Take out what is left of a preempted call; pin its context next."""
        on_host = self.host.take_call(call)
        if on_host:
            return Parked(on_host, on_host=True)
        tokens = self._cached.get(call, 0)
        if tokens:
            self.parked -= tokens
            self._uncache(call, tokens)
        return Parked(tokens, on_host=False)

    def evict(self, limit: int) -> list[tuple[CallKey, int]]:
        """Evict cached tokens to the host until no more than `limit` are in use on the device.

        Returns:
            The preempted calls that moved, each with its tokens. Those that did not fit are lost.
        """
        moved: list[tuple[CallKey, int]] = []
        excess = self.pinned + self.held + self.cached - limit
        while excess > 0 and self._cached:
            key, tokens = next(iter(self._cached.items()))
            if isinstance(key, str):
                tokens = min(tokens, excess)
                self.host.keep_history(ProgramId(key), tokens)
            else:
                self.parked -= tokens
                if self.host.keep_call(key, tokens):
                    moved.append((key, tokens))
            self._uncache(key, tokens)
            excess -= tokens
        return moved

    def _unshare(self, program: ProgramId, hit: int) -> None:
        """End one call's share in its program's history; what nobody shares any longer is cached."""
        shares = self._shares[program]
        pinned = max(shares)
        shares.remove(hit)
        if not shares:
            del self._shares[program]
        freed = pinned - max(shares, default=0)
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
