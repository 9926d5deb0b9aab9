"""Hooks that let the planner decide in SGLang's scheduler: order of the queue, preemption, retraction.

A request that leaves keeps its KV in the engine's prefix tree, until that needs the room; when it comes back it
computes no more than what is missing there, one token at the least.

Source: Autellix section 4, Algorithm 1, and its multi-step scheduling. Differs: KV that is kept on the device costs
nothing to bring back, and goes by the engine's own eviction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.planner import Plan
from autellix_server.sglang_plugin.census import Census, Changes
from autellix_server.sglang_plugin.driver import EngineCall, PlannerDriver
from autellix_server.sglang_plugin.kept import KeptKv
from autellix_server.sglang_plugin.requests import call_of, calls_of, place
from autellix_server.sglang_plugin.room import RoomMeter, can_leave, in_batch, in_session, leaves_history, prompt_left

_NO_LIMIT = 1 << 62


class PreemptionHooks:
    """The hooks of one scheduler process, single-threaded.

    Args:
        driver: decides.
        room: measures what the engine has room for.
        kept: KV of idle programs.
        release: SGLang's `release_kv_cache`.
        now_us: monotonic clock in whole microseconds.
    """

    def __init__(
        self,
        driver: PlannerDriver,
        room: RoomMeter,
        kept: KeptKv,
        release: Callable[..., None],
        now_us: Callable[[], int],
    ) -> None:
        self._driver = driver
        self._room = room
        self._kept = kept
        self._release = release
        self._census = Census()
        # Requests in the queue that the planner does not see.
        self._unseen: set[Any] = set()
        self._now_us = now_us

    def new_batch(self, original: Callable[..., Any], scheduler: Any, running_batch: Any) -> Any:
        """AROUND `Scheduler.get_new_batch_prefill`: let who must leave, leave before the engine admits others.

        Victims queue again only after that: with overlap scheduling their last step is still under way, and a request
        admitted at once would take its result for the first of its new life. Calls behind them stay out of sight for as
        long, so that none takes the room that a better one left.
        """
        now_s = self._now_us() / 1_000_000
        self._observe(scheduler, running_batch, now_s)
        victims = self._plan(scheduler, running_batch, now_s)
        behind: list[Any] = []
        if victims:
            self._preempt(scheduler, running_batch, victims)
            best = min(map(place, victims))
            behind = [req for req in scheduler.waiting_queue if place(req) > best]
            scheduler.waiting_queue = [req for req in scheduler.waiting_queue if place(req) < best]
        planned = original(scheduler, running_batch)
        self._share_steps(scheduler, running_batch)
        scheduler.waiting_queue.extend(behind)
        for req in victims:
            scheduler._add_request_to_queue(req, is_retracted=True)  # noqa: SLF001
        return planned

    def order_queue(
        self, original: Callable[..., Any], policy: Any, waiting_queue: list[Any], *args: Any, **options: Any
    ) -> None:
        """AROUND `SchedulePolicy.calc_priority`: sort by the planner's order, those that it lets in before others.

        SGLang stops at the first that does not fit, and the plan may have passed over that.
        """
        original(policy, waiting_queue, *args, **options)
        waiting_queue.sort(key=place)
        if admitted := self._driver.admitted:
            waiting_queue.sort(key=lambda req: (call := call_of(req)) is not None and call not in admitted)

    def decode_fits(self, original: Callable[..., bool], batch: Any, *args: Any, **options: Any) -> bool:
        """AROUND `ScheduleBatch.check_decode_mem`: what is held of idle programs goes before a running call does."""
        fits = original(batch, *args, **options)
        while not fits and self._driver.planner.release_worst(self._now_us() / 1_000_000):
            self._kept.keep_only(self._driver.planner.held, batch.tree_cache)
            fits = original(batch, *args, **options)
        return fits

    def reset_tree(self, original: Callable[..., None], tree: Any) -> None:
        """AROUND `UnifiedRadixCache.reset`: nothing is held in a tree that is new."""
        self._driver.release_held(self._now_us() / 1_000_000)
        self._kept.forget()
        original(tree)

    def retraction_order(self, original: Callable[..., Any], reqs: Sequence[Any]) -> list[int]:
        """AROUND `ScheduleBatch._get_decode_retraction_order`: when memory runs out, the worst leave first."""
        return sorted(range(len(reqs)), key=lambda index: place(reqs[index]))

    def release_retracted(
        self, original: Callable[..., Any], batch: Any, idx: int, remaing_req_count: int, offload_kv: bool = True
    ) -> Any:
        """AROUND `ScheduleBatch.release_req`: what the engine retracts keeps its KV until the room is needed.

        Without `offload_kv` the request is being aborted.
        """
        if not offload_kv:
            return original(batch, idx, remaing_req_count, offload_kv)
        self._leave(batch.reqs[idx], batch.tree_cache)
        return True

    def _share_steps(self, scheduler: Any, running_batch: Any) -> None:
        """Let better calls have every other step beside a prompt in chunks, which the engine would compute first.

        Only while what they decode meanwhile leaves room for the rest of the prompt: the engine takes that for granted.
        """
        prompt = call_of(scheduler.chunked_req)
        if prompt is not None and self._driver.stalls_better(prompt):
            spare = self._room.tokens(scheduler, running_batch)
            if spare >= len(running_batch.reqs) * scheduler.page_size:
                scheduler._prefill_decode_interval_remaining = 1  # noqa: SLF001

    def _observe(self, scheduler: Any, running_batch: Any, now_s: float) -> None:
        """Tell the driver what the engine did since the last pass, and lock what is held from now on."""
        changes = self._census.take(scheduler.waiting_queue, in_batch(scheduler, running_batch))
        queued, gone = calls_of(changes.queued), calls_of(changes.gone)
        # What has finished was in the batch, be it between two looks.
        started = calls_of(changes.started | set(filter(leaves_history, changes.gone)))
        for call, req in queued.items():
            call.kv_tokens = self._room.needed(scheduler, req)
        if self._driver.planner.holds_programs:
            self._kept.lock_histories(changes.gone, scheduler.tree_cache)
        held = self._driver.observe([*queued], [*started], [*gone], scheduler.forward_ct, now_s)
        self._kept.keep_of(held, scheduler.tree_cache)
        self._watch_unseen(changes, now_s)
        self._kept.keep_only(self._driver.planner.held, scheduler.tree_cache)

    def _watch_unseen(self, changes: Changes, now_s: float) -> None:
        """Hold nothing against requests in the queue that the planner does not see: it cannot tell what they need."""
        unseen = (self._unseen | changes.queued) - changes.started - changes.gone
        self._unseen = {req for req in unseen if call_of(req) is None}
        if self._unseen:
            self._driver.release_held(now_s)

    def _plan(self, scheduler: Any, running_batch: Any, now_s: float) -> list[Any]:
        """Plan if it is time to, and return the requests that leave, worst first."""
        step = scheduler.forward_ct
        if not self._driver.plan_is_due(step):
            return []
        free_slots = self._room.slots(scheduler, running_batch)
        prompt = None
        if prompt_left(scheduler.chunked_req) >= (scheduler.chunked_prefill_size or _NO_LIMIT):
            # It leaves nothing of the step to whoever would be let in beside it.
            prompt = call_of(scheduler.chunked_req)
            can_leave_now = prompt is not None and can_leave(scheduler.chunked_req, in_chunks=True)
            if prompt is None or not can_leave_now or not self._driver.gives_way(prompt):
                return []
        elif free_slots and not self._driver.refused:
            # Whether something fits that is looked at for the first time, the engine knows best.
            return []
        capacity = self._measure(scheduler, running_batch, free_slots)
        plan = self._driver.plan(capacity, step, now_s, prompt)
        self._make_room(plan, scheduler)
        if plan.admit:
            running_batch.batch_is_full = False
        by_call = {call_of(req): req for req in in_batch(scheduler, running_batch)}
        return [by_call[call] for call in plan.preempt if isinstance(call, EngineCall)]

    def _make_room(self, plan: Plan, scheduler: Any) -> None:
        """Unlock what others take, and of what is held for calls that may come in what these do not begin with.

        The rest stays locked until they run: the engine may look at them later, or find that they do not fit.
        """
        planner = self._driver.planner
        held = [call for call in plan.admit if call.context.program in planner.held]
        req_of: dict[Any, Any] = calls_of(scheduler.waiting_queue) if held else {}
        for program, call in {call.context.program: call for call in reversed(held)}.items():
            if not in_session(req_of[call]):
                planner.resize_hold(program, self._kept.keep_for(req_of[call], program, scheduler.tree_cache))
        self._kept.keep_only(planner.held, scheduler.tree_cache)

    def _measure(self, scheduler: Any, running_batch: Any, free_slots: int) -> Capacity:
        """Bring the running calls up to date and return the capacity that leaves the planner just what is free."""
        running, tokens = 0, 0
        for req in in_batch(scheduler, running_batch):
            if (call := call_of(req)) is not None:
                call.kv_tokens = self._room.freed(scheduler, req)
                call.pinned = not can_leave(req, in_chunks=req is scheduler.chunked_req)
                running, tokens = running + 1, tokens + call.kv_tokens
        free_tokens = self._room.tokens(scheduler, running_batch)
        held_tokens = self._driver.planner.held_tokens
        return Capacity(running + free_slots, tokens + free_tokens + held_tokens, _NO_LIMIT)

    def _preempt(self, scheduler: Any, batch: Any, victims: list[Any]) -> None:
        for req in victims:
            self._leave(req, scheduler.tree_cache)
            if req is scheduler.chunked_req:
                # What is computed of its prompt stays too: the engine has put it into its tree after every chunk.
                scheduler.chunked_req = None
        leaving = set(map(id, victims))
        batch.filter_batch(keep_indices=[index for index, req in enumerate(batch.reqs) if id(req) not in leaving])
        # Else the engine would admit nobody until one more leaves.
        batch.batch_is_full = False

    def _leave(self, req: Any, tree_cache: Any) -> None:
        self._release(req, tree_cache, checkpoint=True)
        req.reset_for_retract()
        if req.logprob_start_len == len(req.origin_input_ids):
            # Of its output alone, which SGLang would compute again from there on; -1 says the same and does not.
            req.logprob_start_len = -1
