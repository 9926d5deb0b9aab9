"""KV of idle programs in the engine's prefix tree, locked on the device for as long as the planner holds it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

from autellix_sdk.wire import ProgramId


class KeptKv:
    """The locks of one scheduler process, single-threaded.

    Without a lock the engine evicts what was used least recently, which under load is what a program that waits for its
    tool comes back for. What is locked counts neither as free nor as evictable, so that the engine admits by it.

    Args:
        match: SGLang's `match_kv_cache`.
    """

    def __init__(self, match: Callable[[Any, Any], Any]) -> None:
        self._match = match
        self._tree: Any = None
        self._locks: dict[ProgramId, Any] = {}

    def keep(self, program: ProgramId, req: Any, tree: Any) -> None:
        """Lock what the tree has on the device of a request that is gone.

        Args:
            program: whose it is; nothing of it is kept yet.
            req: its last request.
            tree: SGLang's prefix tree, the same every time.
        """
        self._tree = tree
        self._locks[program] = tree.lock(self._match(req, tree).last_device_node)

    def keep_only(self, programs: AbstractSet[ProgramId]) -> None:
        """Unlock what is kept of all other programs."""
        for program in self._locks.keys() - programs:
            self._tree.unlock(self._locks.pop(program))

    def reset(self, original: Callable[..., None], tree: Any) -> None:
        """AROUND `UnifiedRadixCache.reset`: locks go with the tree that they are in."""
        self._locks.clear()
        original(tree)
