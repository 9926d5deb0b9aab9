"""KV of calls that left the batch stays within reach until they go on: on the device, or in host memory.

When a call leaves, its KV goes into the engine's prefix tree. When the device needs the room, HiCache copies it to the
host pool, and back when the call goes on. What the host pool needs room for it drops, oldest first. A lock on the tree
node where the call's KV ends keeps it from being dropped, on either side. So the call computes no more than what does
not fill a page, one token, and what `loads` would rather compute than load: less than `load_back_threshold` tokens that
are on the host, or KV that is damaged there. Calls with less KV than that threshold need no lock and get none.

HiCache has to write back, that is copy what is evicted. Were everything copied at once that enters the tree, the room
of a call that leaves would be free only when its copy is done: the call for which it left would not fit in yet, and
when memory runs out the engine would go on making calls leave. Besides, copies of what is on the device as well would
fill the host pool.

Source: Autellix section 4.3, efficient memory management. Differs: KV is copied when its room is needed, not whenever
a call leaves, and loading it back overlaps the step that needs it. So its time cannot be told apart, and only tokens
are booked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autellix_server.sglang_plugin.requests import place, state_of
from autellix_server.sglang_plugin.room import in_session


@dataclass(frozen=True, slots=True)
class _Lock:
    """A host lock in the tree.

    Attributes:
        node: tree node where the locked KV ends.
        receipt: what the tree wants back for it.
    """

    node: int
    receipt: Any


@dataclass(eq=False, slots=True)
class _Away:
    """A request that left the batch.

    Attributes:
        req: SGLang's request.
        tokens: length of its KV in the tree when last looked at, which the host pool may have to hold.
        lock: `None` while there is no room for one.
    """

    req: Any
    tokens: int
    lock: _Lock | None = None


@dataclass(slots=True)
class _Counts:
    """Totals since the engine started: tokens copied, and locks that the budget was too small for."""

    swapped_out_tokens: int = 0
    swapped_in_tokens: int = 0
    host_locks_refused: int = 0


class SwapHooks:
    """Keeps the host locks of one scheduler process, single-threaded. Without HiCache it keeps nothing.

    The budget is the host pool itself. When it is short, the calls that are last in line lose their locks first; when
    others give theirs up, the first in line get one again.

    Args:
        release: SGLang's `release_kv_cache`.
        match: SGLang's `match_kv_cache`.
    """

    def __init__(self, release: Callable[..., None], match: Callable[[Any, Any], Any]) -> None:
        self._release = release
        self._match = match
        self._tree: Any = None
        self._away: dict[int, _Away] = {}
        self._counts = _Counts()

    def init_hicache(self, original: Callable[..., None], tree: Any, *args: Any) -> None:
        """AROUND `UnifiedRadixCache.init_hicache`: from now on there is a host pool."""
        original(tree, *args)
        self._tree = tree

    def release(self, req: Any, tree: Any, *, checkpoint: bool) -> None:
        """Release a running request's KV, by SGLang's `release_kv_cache`, and lock what the tree keeps of it.

        Args:
            req: leaves the batch, and is queued before the next scheduling pass ends.
            tree: SGLang's prefix tree.
            checkpoint: the tree keeps its KV; there is nothing to lock otherwise.
        """
        tokens = req.owned_kv_len() // tree.page_size * tree.page_size
        self._release(req, tree, checkpoint=checkpoint)
        if self._tree is None or not checkpoint or not tokens or in_session(req):
            return
        away = self._away[id(req)] = _Away(req, tokens)
        if not self._worth_loading(away):
            return
        if not (self._make_room(away) and self._lock(away, req.last_node)):
            self._counts.host_locks_refused += 1

    def new_batch(
        self, inner: Callable[..., Any], original: Callable[..., Any], scheduler: Any, running_batch: Any
    ) -> Any:
        """AROUND `Scheduler.get_new_batch_prefill`, outside the hook `inner`: drop the locks that served their time.

        Those of requests that go on, whose KV the engine has locked itself by now, and of requests that are gone. Their
        room is for calls that wait without a lock.
        """
        planned = inner(original, scheduler, running_batch)
        if self._away:
            batch = planned.batch_to_run
            if self._settle(scheduler.waiting_queue, () if batch is None else batch.reqs):
                self._lock_again()
        return planned

    def reset(self, original: Callable[..., None], tree: Any) -> None:
        """AROUND `UnifiedRadixCache.reset`: locks go with the tree that they are in."""
        self._away.clear()
        original(tree)

    def drop_subtree(self, original: Callable[..., bool], tree: Any, node: int, *args: Any) -> bool:
        """AROUND `UnifiedRadixCache._drop_subtree_no_host`: no lock keeps the engine from room that it counts on.

        The engine needs the room of `node`, and the host pool has none: loads under way take what the budget leaves.
        Where something is locked the tree declines and has done nothing. So it is asked first: to find out whose locks
        these are takes a walk up the tree for every lock that there is.
        """
        if original(tree, node, *args):
            return True
        in_the_way = [
            away for away in self._away.values() if away.lock is not None and node in self._path(away.lock.node)
        ]
        for away in in_the_way:
            self._unlock(away)
            self._counts.host_locks_refused += 1
        return bool(in_the_way) and original(tree, node, *args)

    def write(self, original: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """AROUND `HybridCacheController.write`: count the tokens that go to the host."""
        host_indices = original(*args, **options)
        self._counts.swapped_out_tokens += 0 if host_indices is None else len(host_indices)
        return host_indices

    def load(self, original: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """AROUND `HybridCacheController.load`: count the tokens that come back."""
        device_indices = original(*args, **options)
        self._counts.swapped_in_tokens += 0 if device_indices is None else len(device_indices)
        return device_indices

    def to_json(self) -> dict[str, int]:
        """Return what is locked and in use now, in tokens, and the totals; nothing without HiCache."""
        if self._tree is None:
            return {}
        pool = self._tree.cache_controller.mem_pool_host
        return {
            "host_locks": sum(away.lock is not None for away in self._away.values()),
            "host_locked_tokens": self._locked_tokens(),
            "host_tokens": pool.logical_size - pool.available_size(),
            "host_locks_refused": self._counts.host_locks_refused,
            "swapped_out_tokens": self._counts.swapped_out_tokens,
            "swapped_in_tokens": self._counts.swapped_in_tokens,
        }

    def _make_room(self, newcomer: _Away) -> bool:
        """Return whether the newcomer may be locked, having unlocked calls that are worse if need be."""
        excess = newcomer.tokens - self._room()
        mine = place(newcomer.req)
        worse = [
            (theirs, away)
            for away in self._away.values()
            if away.lock is not None and (theirs := place(away.req)) > mine
        ]
        if excess > sum(away.tokens for _, away in worse):
            return False
        for _, away in sorted(worse, key=lambda pair: pair[0], reverse=True):
            if excess <= 0:
                break
            excess -= self._unlock(away)
            self._counts.host_locks_refused += 1
        return True

    def _settle(self, waiting: Sequence[Any], admitted: Sequence[Any]) -> int:
        """Forget whoever no longer waits, book what was loaded for those admitted, and return the tokens unlocked."""
        for req in admitted:
            if id(req) in self._away and (state := state_of(req)) is not None:
                state.meter.swapped_tokens += req.materialized_host_hit_len()
        there = set(map(id, waiting))
        return sum(self._unlock(self._away.pop(key)) for key in [key for key in self._away if key not in there])

    def _lock_again(self) -> None:
        """Lock those who wait without, the first in line first, as far as there is room: whatever the tree still has.

        The nodes where their KV ended may be gone, so the tree is asked anew.
        """
        room = self._room()
        without = [(place(away.req), away) for away in self._away.values() if away.lock is None]
        for _, away in sorted(without, key=lambda pair: pair[0]):
            if not (self._worth_loading(away) and 0 < away.tokens <= room):
                continue
            found = self._match(away.req, self._tree)
            away.tokens = found.device_prefix_len + found.host_hit_length
            # Others may have brought more of it into the tree than it left there.
            if 0 < away.tokens <= room and self._lock(away, found.best_match_node):
                room -= away.tokens

    def _worth_loading(self, away: _Away) -> bool:
        """Return whether a call's KV would ever be loaded: what is less is computed again, locked or not."""
        return bool(away.tokens >= self._tree.load_back_threshold)

    def _lock(self, away: _Away, node: int) -> bool:
        """Lock the KV of a call, which ends at `node`, and return whether that worked."""
        receipt = self._tree.inc_host_lock_ref(node).to_dec_params()
        # Unless the tree writes back, only what has been copied can be locked; else this did nothing.
        if receipt.component_host_lock_uuids:
            away.lock = _Lock(node, receipt)
        return away.lock is not None

    def _unlock(self, away: _Away) -> int:
        """Drop a lock, if there is one, and return its tokens."""
        lock, away.lock = away.lock, None
        if lock is None:
            return 0
        self._tree.dec_host_lock_ref(lock.node, lock.receipt)
        return away.tokens

    def _locked_tokens(self) -> int:
        return sum(away.tokens for away in self._away.values() if away.lock is not None)

    def _room(self) -> int:
        """Return how many tokens more may be locked."""
        size: int = self._tree.cache_controller.mem_pool_host.logical_size
        return size - self._locked_tokens()

    def _path(self, node: int) -> set[int]:
        """Return the tree nodes from the root to `node`, the root not among them."""
        return {info.node_id for info in self._tree.tree_core.collect_path_info([node])[0]}
