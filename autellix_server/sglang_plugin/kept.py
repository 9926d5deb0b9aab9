"""KV of idle programs in the engine's prefix tree, locked on the device for as long as the planner holds it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from autellix_sdk.wire import ProgramId


class LockedKv(NamedTuple):
    """KV from the root of the prefix tree to a node, locked.

    Attributes:
        lock: SGLang's receipt.
        tokens: by how much less the engine can evict for it; what others have locked as well is not counted.
    """

    lock: Any
    tokens: int


class KeptKv:
    """The locks of one scheduler process, single-threaded.

    Without a lock the engine evicts what was used least recently, which under load is what a program that waits for its
    tool comes back for. What is locked counts neither as free nor as evictable, so that the engine admits by it.

    Args:
        match: SGLang's `match_kv_cache`.
    """

    def __init__(self, match: Callable[[Any, Any], Any]) -> None:
        self._match = match
        self._locks: dict[ProgramId, Any] = {}

    def lock(self, req: Any, tree: Any) -> LockedKv:
        """Lock what the tree has on the device of a request that is gone; to be kept or dropped next.

        Args:
            req: it finished, and belongs to no session.
            tree: SGLang's prefix tree.
        """
        before = tree.protected_size()
        lock = tree.lock(self._match(req, tree).last_device_node)
        return LockedKv(lock, tree.protected_size() - before)

    def keep(self, program: ProgramId, locked: LockedKv) -> None:
        """Keep what was locked of a program's last request; nothing of it is kept yet."""
        self._locks[program] = locked.lock

    def keep_only(self, programs: AbstractSet[ProgramId], tree: Any) -> None:
        """Unlock what is kept of all other programs."""
        if len(self._locks) > len(programs):
            for program in [program for program in self._locks if program not in programs]:
                tree.unlock(self._locks.pop(program))

    def forget(self) -> None:
        """Forget all locks, which go with the tree that they are in."""
        self._locks.clear()
