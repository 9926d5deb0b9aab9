"""SGLang's scheduler as far as the planner's hooks see it: slots, a token pool, one admission loop. Whole steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

from autellix_server.sglang_plugin.records import CallTag
from autellix_server.sglang_plugin.requests import open_state


@dataclass(eq=False)
class FakeReq:
    """The attributes of SGLang's `Req` that the hooks read, and those that a preemption changes.

    `begins_with` is the request whose KV its prompt begins with.
    """

    name: str
    prompt_tokens: int = 10
    max_new_tokens: int = 20
    output_ids: list[int] = field(default_factory=list)
    retraction_count: int = 0
    is_retracted: bool = False
    finished_reason: Any = None
    to_finish: Any = None
    beam_group: Any = None
    session: Any = None
    input_embeds: Any = None
    return_logprob: bool = False
    logprob_start_len: int = -1
    return_hidden_states: bool = False
    return_routed_experts: bool = False
    return_indexer_topk: bool = False
    prefix_len: int = 0
    cached_tokens: int = 0
    last_node: int = 0
    host_hit_tokens: int = 0
    autellix: Any = None
    begins_with: str = ""

    def __post_init__(self) -> None:
        self.origin_input_ids = [0] * self.prompt_tokens
        self.kv = SimpleNamespace(kv_committed_len=0)
        self.sampling_params = SimpleNamespace(max_new_tokens=self.max_new_tokens, ignore_eos=True)

    def finished(self) -> bool:
        """Whether the engine is done with it."""
        return self.finished_reason is not None

    def owned_kv_len(self) -> int:
        """Tokens whose KV it has."""
        return int(self.kv.kv_committed_len)

    def materialized_host_hit_len(self) -> int:
        """Tokens that were loaded for it when it was admitted last."""
        return self.host_hit_tokens

    def next_output_finishes_by_length(self) -> bool:
        """Whether one more token is the last."""
        return len(self.output_ids) + 1 >= self.max_new_tokens

    def reset_for_retract(self) -> None:
        """Count the retraction; the KV must have been released."""
        assert self.kv.kv_committed_len == 0
        self.retraction_count += 1


class FakeBatch:
    """A batch that runs."""

    def __init__(self) -> None:
        self.reqs: list[FakeReq] = []
        self.batch_is_full = False
        self.tree_cache: Any = None

    def filter_batch(self, *, keep_indices: list[int]) -> None:
        """Keep some requests."""
        self.reqs = [self.reqs[index] for index in keep_indices]


class FakePrefixTree:
    """SGLang's prefix tree as far as locks go: what it keeps of each request is a node below that it begins with.

    `kept` says how many tokens there are from the root to the end of each node.
    """

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}
        self.parents: dict[str, str] = {}
        self.locked: list[str] = []

    def protected_size(self, node: str | None = None) -> int:
        """Tokens that cannot be evicted, of all nodes or of those from the root to `node`."""
        nodes = {above for locked in self.locked for above in self._path(locked)}
        if node is not None:
            nodes &= self._path(node)
        return sum(self.kept[one] - self.kept.get(self.parents.get(one, ""), 0) for one in nodes)

    def keep(self, req: FakeReq) -> None:
        """Take over the KV of a request that finished."""
        self.kept[req.name] = int(req.kv.kv_committed_len)
        if req.begins_with:
            self.parents[req.name] = req.begins_with

    def match(self, req: FakeReq, tree: FakePrefixTree) -> Any:
        """Stands in for `match_kv_cache`."""
        assert tree is self
        return SimpleNamespace(last_device_node=req.name if req.name in self.kept else req.begins_with)

    def _path(self, node: str) -> set[str]:
        return {node, *self._path(self.parents.get(node, ""))} if node in self.kept else set()

    def lock(self, node: str) -> str:
        """Lock a node; the receipt is its name."""
        self.locked.append(node)
        return node

    def unlock(self, receipt: str) -> None:
        """Undo one `lock`."""
        self.locked.remove(receipt)


class FakeScheduler:
    """Admits from the head of its queue while slots and tokens last, up to the first that does not fit.

    Args:
        slots: requests that may run.
        tokens: size of the pool; prompts, outputs and what is reserved for outputs count, caches do not.
    """

    page_size = 1
    chunked_prefill_size = 64
    chunked_req: FakeReq | None = None
    _prefill_decode_interval_remaining = 0

    def __init__(self, slots: int, tokens: int = 10_000) -> None:
        self._slots = slots
        self._tokens = tokens
        self.waiting_queue: list[FakeReq] = []
        self.running_batch = FakeBatch()
        self.tree_cache = self.running_batch.tree_cache = FakePrefixTree()
        self.forward_ct = 0
        self._numbers = count()
        self.now_us = 0
        self.released: list[str] = []
        self.seen: list[list[str]] = []
        self.new_token_ratio_tracker = SimpleNamespace(current=0.5)
        self.token_to_kv_pool_allocator = SimpleNamespace(
            create_prefill_budget=lambda _: SimpleNamespace(remaining_total=self._free)
        )

    @property
    def _free(self) -> int:
        running = sum([int(req.kv.kv_committed_len) for req in self.running_batch.reqs])
        return self._tokens - self.tree_cache.protected_size() - running

    def submit(
        self, name: str, base_s: float = 0.0, program: str | None = None, *, single_call: bool = False, **fields: Any
    ) -> FakeReq:
        """Queue a request of a program that attained `base_s`; without `program` the program is its own."""
        req = FakeReq(name, **fields)
        tag = CallTag(program or f"program-{name}", "0.0", round(base_s * 1e6), single_call=single_call)
        req.autellix = open_state(tag, req.prompt_tokens, next(self._numbers), self.now_us, self.now_us)
        self.waiting_queue.append(req)
        return req

    def get_num_allocatable_reqs(self, running_bs: int, **_: Any) -> int:
        """Slots that are left."""
        return self._slots - running_bs

    def release(self, req: FakeReq, _: Any, *, checkpoint: bool) -> None:
        """Stands in for `release_kv_cache`."""
        assert checkpoint
        self.released.append(req.name)
        req.kv.kv_committed_len = 0

    def _add_request_to_queue(self, req: FakeReq, is_retracted: bool = False) -> None:
        assert is_retracted
        self.waiting_queue.append(req)

    def admit(self, _: Any, running_batch: FakeBatch) -> str:
        """Stands in for the original `get_new_batch_prefill`."""
        self.seen.append([req.name for req in self.waiting_queue])
        if running_batch.batch_is_full:
            return "full"
        for req in list(self.waiting_queue):
            left = sum(one.max_new_tokens - len(one.output_ids) for one in running_batch.reqs)
            needed = req.prompt_tokens - self.tree_cache.protected_size(req.begins_with) + req.max_new_tokens + 1
            if len(running_batch.reqs) >= self._slots or needed >= self._free - left:
                running_batch.batch_is_full = True
                break
            self.waiting_queue.remove(req)
            running_batch.reqs.append(req)
            req.kv.kv_committed_len = req.prompt_tokens + len(req.output_ids)
        return "planned"

    def finish(self, req: FakeReq, reason: str = "length") -> None:
        """Take a running request out; the tree keeps its KV."""
        self.running_batch.reqs.remove(req)
        req.finished_reason = SimpleNamespace(to_json=lambda: {"type": reason})
        self.tree_cache.keep(req)

    def names(self) -> tuple[list[str], list[str]]:
        """Who runs and who waits."""
        return [req.name for req in self.running_batch.reqs], [req.name for req in self.waiting_queue]
