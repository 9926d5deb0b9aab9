"""What comes back from host memory, and what is computed again: because that is sooner, or the KV was damaged.

HiCache asks a controller to load KV that a call needs; when nothing can be loaded, the engine computes it from the last
token on that the device has. Both of our reasons use that way, and so nothing else has to know of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from autellix_server.sglang_plugin.swap_check import SwapCheck
from autellix_server.sglang_plugin.swap_cost import LoadCost, PrefillRate, load_threshold

_log = logging.getLogger(__name__)

_UNITS_PER_S = 1_000_000_000_000
"""Ranks agree on whole numbers, of picoseconds."""


class CheckedPool(Protocol):
    """A host pool as far as loads go: `host_pool.KernelHostPool`."""

    def start(self, io_backend: str, check: SwapCheck) -> None:
        """Get ready, and check pages from now on."""

    def load_cost(self, io_backend: str) -> LoadCost | None:
        """Measure what a load takes; `None` if that cannot be told."""

    def changed_pages(self, host_indices: Any) -> int:
        """Return how many pages are not as they went out, of those that are checked."""

    def to_json(self) -> dict[str, Any]:
        """Return which kernel copies in each direction, and why."""


class LoadHooks:
    """Decides for one scheduler process, single-threaded, what is loaded. Without HiCache it does nothing.

    All ranks of an engine decide alike: they take over the slowest rank's cost of loads and the same rate of computing,
    and what one of them found damaged none of them loads.

    Attributes:
        check: which pages are checked, and how many were.

    Args:
        check_share: of the pages that go to host memory, how many are checked when they are to come back.
        pool_of: returns the host pool of a prefix tree; `None` if that is not ours.
        smallest: returns for a prefix tree and some numbers the smallest that any rank has of each.
    """

    def __init__(
        self,
        check_share: float,
        pool_of: Callable[[Any], CheckedPool | None],
        smallest: Callable[[Any, Sequence[int]], Sequence[int]],
    ) -> None:
        self.check = SwapCheck(check_share)
        self._pool_of = pool_of
        self._smallest = smallest
        self._rate = PrefillRate()
        self._tree: Any = None
        self._pool: CheckedPool | None = None
        self._cost: LoadCost | None = None

    def init_hicache(self, original: Callable[..., None], tree: Any, *args: Any) -> None:
        """AROUND `UnifiedRadixCache.init_hicache`: from now on there is a host pool; find out what loads from it take.

        HiCache would compute up to nine tokens again rather than load them. Until it is known what computing takes
        here, everything is loaded.
        """
        original(tree, *args)
        tree.load_back_threshold = 1
        self._tree, self._pool = tree, self._pool_of(tree)
        if self._pool is None:
            return
        backend = tree.cache_controller.io_backend
        self._pool.start(backend, self.check)
        self._cost = self._agreed(self._pool.load_cost(backend))
        _log.info("KV between device and host memory: %s", self.state()["swap"])

    def load(self, original: Callable[..., Any], controller: Any, host_indices: Any, *args: Any, **options: Any) -> Any:
        """AROUND `HybridCacheController.load`: load nothing, as if there were no room, when a page of it is damaged."""
        # Ranks ask one another whatever they know themselves: their pages need not be the same.
        if self._pool is not None and self.check.share:
            changed = -self._smallest(self._tree, [-self._pool.changed_pages(host_indices)])[0]
            if changed:
                told = "%d pages of KV changed in host memory; %d tokens are computed again"
                _log.warning(told, changed, len(host_indices))
                return None
        return original(controller, host_indices, *args, **options)

    def prefilled(self, tokens: int, length_s: float) -> None:
        """Take over what a step took, the same on every rank.

        Args:
            tokens: computed as prompts, of a step that waited for no load; 0 of others.
            length_s: seconds.
        """
        if self._cost is not None and self._rate.step(tokens, length_s):
            self._tree.load_back_threshold = load_threshold(self._cost, self._rate.tokens_s)

    def to_json(self) -> dict[str, int]:
        """Return the totals; nothing without HiCache."""
        if self._tree is None:
            return {}
        return {"swap_pages_checked": self.check.checked, "swap_pages_failed": self.check.failed}

    def state(self) -> dict[str, Any]:
        """Return how KV is copied, and what decides whether it is loaded; nothing without HiCache.

        ``load`` has the cost of a load, `None` if it was not measured; ``prefill_tokens_s`` is `None` until a step was.
        """
        if self._tree is None:
            return {}
        cost = self._cost
        return {
            "swap": {
                "copies": None if self._pool is None else self._pool.to_json(),
                "check_share": self.check.share,
                "load": None if cost is None else {"fixed_s": cost.fixed_s, "token_s": cost.token_s},
                "prefill_tokens_s": self._rate.tokens_s,
                "load_threshold_tokens": self._tree.load_back_threshold,
            }
        }

    def _agreed(self, cost: LoadCost | None) -> LoadCost | None:
        """Return the slowest rank's cost; `None` if a rank could not tell."""
        told = cost is not None
        own_s = (cost.fixed_s, cost.token_s) if cost is not None else (0.0, 0.0)
        everybody, *slowest = self._smallest(self._tree, [int(told), *(-int(part * _UNITS_PER_S) for part in own_s)])
        return LoadCost(*(-part / _UNITS_PER_S for part in slowest)) if everybody else None
