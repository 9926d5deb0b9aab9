"""SGLang's prefix tree and HiCache's controller as far as host locks see them: one branch of one node per request."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from fake_scheduler import FakeReq


class FakeTree:
    """Grants host locks, and remembers which it was asked for.

    `kept` says, by name of a request, at which node what the tree has of it ends, and how many tokens that is.

    Args:
        host_tokens: size of the host pool; `None`: there is none.
        page_size: tokens to a page.
        backed_up: whether nodes have a host value, or may be locked without; else locks silently do nothing.
    """

    def __init__(self, host_tokens: int | None, page_size: int = 1, *, backed_up: bool = True) -> None:
        self.page_size = page_size
        self.load_back_threshold = 1
        self.locked = Counter[int]()
        self.parents: dict[int, int] = {}
        self.kept: dict[str, tuple[int, int]] = {}
        self.matched: list[str] = []
        self.backed_up = backed_up
        self.tree_core = SimpleNamespace(collect_path_info=self._paths)
        pool = SimpleNamespace(logical_size=host_tokens, available_size=lambda: 0)
        self.cache_controller = None if host_tokens is None else SimpleNamespace(mem_pool_host=pool)

    def inc_host_lock_ref(self, node: int) -> Any:
        """Lock a node on the host; the receipt names the node if it has anything to lock there."""
        uuids = {"full": node} if self.backed_up else {}
        self.locked[node] += len(uuids)
        receipt = SimpleNamespace(node=node, component_host_lock_uuids=uuids)
        return SimpleNamespace(to_dec_params=lambda: receipt)

    def dec_host_lock_ref(self, node: int, receipt: Any) -> None:
        """Unlock; the receipt has to be that of a lock that is held."""
        assert receipt.node == node
        assert self.locked[node] > 0
        self.locked[node] -= 1

    def match(self, req: FakeReq, tree: FakeTree) -> Any:
        """Stands in for `match_kv_cache`: up to a third is on the device, the rest on the host."""
        assert tree is self
        self.matched.append(req.name)
        node, tokens = self.kept.get(req.name, (0, 0))
        return SimpleNamespace(
            best_match_node=node, device_prefix_len=tokens // 3, host_hit_length=tokens - tokens // 3
        )

    @property
    def locks(self) -> set[int]:
        """Nodes that are locked."""
        return {node for node, count in self.locked.items() if count}

    def _paths(self, ends: list[int]) -> tuple[tuple[Any, ...], ...]:
        return tuple(self._path(end) for end in ends)

    def _path(self, node: int) -> tuple[Any, ...]:
        above = self._path(self.parents[node]) if node in self.parents else ()
        return (*above, SimpleNamespace(node_id=node))
