"""KV of idle programs in the engine's prefix tree, locked on the device for as long as the planner holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from autellix_sdk.wire import ProgramId
from autellix_server.sglang_plugin.driver import EngineCall
from autellix_server.sglang_plugin.requests import calls_of
from autellix_server.sglang_plugin.room import leaves_history


class KeptKv:
    """The locks of one scheduler process, single-threaded.

    Without a lock the engine evicts what was used least recently, which under load is what a program that waits for its
    tool comes back for. What is locked counts neither as free nor as evictable, so that the engine admits by it, but it
    costs the call nothing that begins with it.

    Args:
        match: SGLang's `match_kv_cache`.
    """

    def __init__(self, match: Callable[[Any, Any], Any]) -> None:
        self._match = match
        # SGLang's receipts: what is kept, and what calls that are gone left behind until it is said whose is kept.
        self._locks: dict[ProgramId, Any] = {}
        self._left: dict[EngineCall, Any] = {}

    def lock_histories(self, gone: Iterable[Any], tree: Any) -> None:
        """Lock what requests that are gone leave behind for later calls of their programs, until `keep_of`.

        Sets `kv_tokens` of their calls to by how much less the engine can evict for it; what others have locked as well
        is not counted. What was kept of their programs so far no longer is.

        Args:
            gone: SGLang's requests.
            tree: SGLang's prefix tree.
        """
        for call, req in calls_of(gone).items():
            call.kv_tokens = 0
            if not call.single_call and leaves_history(req):
                replaced = self._locks.pop(call.context.program, None)
                if replaced is not None:
                    tree.unlock(replaced)
                before = tree.protected_size()
                self._left[call] = self._lock(req, tree)
                call.kv_tokens = tree.protected_size() - before

    def keep_of(self, calls: Iterable[EngineCall], tree: Any) -> None:
        """Keep what these calls left behind, each for its program, and unlock what the others did."""
        for call in calls:
            self._locks[call.context.program] = self._left.pop(call)
        for lock in self._left.values():
            tree.unlock(lock)
        self._left.clear()

    def keep_for(self, req: Any, program: ProgramId, tree: Any) -> int:
        """Keep of a program no more than what a request that waits begins with: the rest is room for it.

        Returns:
            By how many tokens less the engine can evict; below 0: by how many more.
        """
        before = tree.protected_size()
        tree.unlock(self._locks.pop(program))
        self._locks[program] = self._lock(req, tree)
        return int(tree.protected_size() - before)

    def keep_only(self, programs: AbstractSet[ProgramId], tree: Any) -> None:
        """Unlock what is kept of all other programs."""
        if len(self._locks) > len(programs):
            for program in [program for program in self._locks if program not in programs]:
                tree.unlock(self._locks.pop(program))

    def forget(self) -> None:
        """Forget all locks, which go with the tree that they are in."""
        self._locks.clear()

    def _lock(self, req: Any, tree: Any) -> Any:
        """Lock what the tree has on the device of a request, and return the receipt."""
        return tree.lock(self._match(req, tree).last_device_node)
