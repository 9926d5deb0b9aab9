"""KV of idle programs in the engine's prefix tree, locked on the device for as long as the planner holds it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from autellix_sdk.wire import ProgramId


class KvInTree(NamedTuple):
    """KV from the root of the prefix tree to a node: how many tokens, and the node."""

    tokens: int
    node: Any


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

    def find(self, req: Any, tree: Any) -> KvInTree:
        """Return what the tree has on the device of a request that is gone."""
        match = self._match(req, tree)
        return KvInTree(match.device_prefix_len, match.last_device_node)

    def keep(self, program: ProgramId, found: KvInTree, tree: Any) -> None:
        """Lock what was found of a program's last request.

        Args:
            program: nothing of it is kept yet.
            found: since then the tree has not changed.
            tree: SGLang's prefix tree, the same every time.
        """
        self._tree = tree
        self._locks[program] = tree.lock(found.node)

    def keep_only(self, programs: AbstractSet[ProgramId]) -> None:
        """Unlock what is kept of all other programs."""
        for program in self._locks.keys() - programs:
            self._tree.unlock(self._locks.pop(program))

    def forget(self) -> None:
        """Forget all locks, which go with the tree that they are in."""
        self._locks.clear()
