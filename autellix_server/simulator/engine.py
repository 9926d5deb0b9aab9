"""One model engine: continuous batching, chunked prefill, prefix cache, preemption; many decode steps at once.

Between two events (an arrival that nobody waits before, a call done, a plan that is due, memory running short) the
decoding batch does not change, so the time of any number of its steps has a closed form.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from math import inf
from typing import cast

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.planner import Planner, PlannerSettings
from autellix_server.simulator.batch import DecodeBatch
from autellix_server.simulator.memory import KvPool
from autellix_server.simulator.model import EngineModel
from autellix_server.simulator.programs import SimCall


def usable_kv_tokens(model: EngineModel, settings: PlannerSettings) -> int:
    """Return the part of the KV pool that plans may fill: the rest is for what grows until the next plan."""
    return model.kv_tokens - settings.steps_between_plans * (model.slots + settings.spares)


class SimEngine:
    """One engine in virtual time. Whoever drives it calls `proceed` when the time is `next_s`, and `arrive` before.

    What is evicted, preempted calls' KV and histories, goes to the host beside the computation, as in SGLang's HiCache;
    what comes back holds up the whole engine, and what the host had no room for is computed again.

    Args:
        name: of the engine.
        model: costs and capacity.
        planner: decides who runs, and says how often to ask; this engine's own.
        on_complete: called with a finished call and the time, after the planner has forgotten it.
    """

    def __init__(
        self,
        name: str,
        model: EngineModel,
        planner: Planner,
        on_complete: Callable[[SimCall, float], None],
    ) -> None:
        self.name = name
        self.planner = planner
        self.kv: KvPool[SimCall] = KvPool(model.kv_tokens, model.host_tokens)
        self.next_s = inf
        """When the steps under way end or the next begin; ``inf`` when there is nothing to do."""
        self._model = model
        self._plan_every = planner.settings.steps_between_plans
        self._places = model.slots + planner.settings.spares
        self._usable = usable_kv_tokens(model, planner.settings)
        self._on_complete = on_complete
        self._now_s = 0.0
        # What is under way: a number of decode steps, or one step of `_step_s` seconds with chunks of prompts.
        self._steps = 0
        self._chunks: list[tuple[SimCall, int]] = []
        self._step_s = 0.0
        # Admitted calls: computing their prompts, ready to decode when a slot is free, decoding.
        self._prefilling: deque[SimCall] = deque()
        self._ready: deque[SimCall] = deque()
        self._batch = DecodeBatch(model)
        self._waiting = 0
        self._waiting_tokens = 0
        self._aborted: list[SimCall] = []
        self._plan_at_once = False
        self._steps_since_plan = 0

    @property
    def calls(self) -> int:
        """Calls in the engine, waiting and running."""
        return self.planner.waiting + self.planner.running

    def generated(self, call: SimCall, now: float) -> int:
        """Return how many tokens `call` has had by `now`, which is no later than `next_s`."""
        return self._batch.generated(call) + self._steps_ended(now) if call in self._batch else call.generated

    def step_ends_s(self, now: float) -> float:
        """Return when the first step ends that has not ended by `now`; `next_s` where no calls decode."""
        return self._now_s + self._batch.steps_s(self._steps_ended(now) + 1) if self._steps else self.next_s

    def arrive(self, call: SimCall, now: float) -> None:
        """Queue a call. It is planned at the end of the step under way if nobody waits before it, else with the queue.

        Args:
            call: not seen before.
            now: no later than `next_s`.
        """
        self._catch_up(now)
        call.cached_tokens = min(call.trace.shared_prefix_tokens, self.kv.history_tokens(call.program.id))
        first = not self._waiting
        self._enqueue(call)
        self.planner.arrive(call, now)
        call.start_level = call.level
        call.queued_at = call.level, call.rank
        if self.next_s == inf:
            self.next_s = now
        if first:
            self._plan_at_once = True
            self._stop_after_step()

    def abort(self, call: SimCall, now: float) -> None:
        """Take out a call at the end of the step under way, and drop its KV; `on_complete` is not called for it.

        If that step completes it, it completes as if it had not been aborted.

        Args:
            call: one that arrived, is not done, and was not aborted before.
            now: no later than `next_s`.
        """
        self._catch_up(now)
        self._stop_after_step()
        self._aborted.append(call)

    def program_ended(self, program: ProgramId, program_class: str, service_s: float, now: float) -> None:
        """Let the planner know that `program` ended and, if it goes by programs, drop its KV.

        Args:
            program: it need not have been here.
            program_class: see `Planner.program_ended`.
            service_s: the service it attained in all.
            now: no later than `next_s`.
        """
        self.planner.program_ended(program, program_class, service_s, now)
        if self.planner.policy.program_aware:
            self._catch_up(now)
            self.kv.forget(program)

    def proceed(self) -> None:
        """End the steps under way or, when there are none, plan and begin the next.

        These are two calls at the same time, so that a plan sees the calls that the end of a step released.
        """
        self._now_s = self.next_s
        if self._steps:
            self._end_decode()
        elif self._chunks:
            self._end_prefill()
        else:
            self._begin()

    def _begin(self) -> None:
        if self._aborted:
            self._drop_aborted()
        if self._plan_is_due():
            self._now_s += self._plan()
        if self._prefilling:
            self._begin_prefill()
        elif self._batch:
            self._steps = self._steps_to_event()
            self.next_s = self._now_s + self._batch.steps_s(self._steps)
        elif self._waiting:
            raise RuntimeError(f"nobody runs on engine {self.name}, yet its planner admits none of those that wait")
        else:
            self.next_s = inf

    def _steps_to_event(self) -> int:
        """Return after how many decode steps a call is done, a plan is due, or memory runs short."""
        steps = self._batch.steps_to_finish()
        steps = min(steps, max(0, self._usable - self.kv.pinned - self.kv.held) // len(self._batch) + 1)
        if self._waiting:
            steps = min(steps, max(1, self._plan_every - self._steps_since_plan))
        return steps

    def _catch_up(self, now: float) -> None:
        """Take those of the decode steps under way that ended before `now`; no call is done by them."""
        if self._steps > 1:
            steps = min(self._steps, self._batch.steps_in(now - self._now_s)) - 1
            self._now_s += self._batch.steps_s(steps)
            self._take_steps(steps)

    def _steps_ended(self, now: float) -> int:
        """Return how many of the decode steps under way have ended by `now`; never the last of them."""
        if self._steps <= 1:
            return 0
        steps = self._batch.steps_in(now - self._now_s)
        ended = steps if self._now_s + self._batch.steps_s(steps) <= now else steps - 1
        return min(ended, self._steps - 1)

    def _stop_after_step(self) -> None:
        """Let the steps under way end with the first of them."""
        if self._steps > 1:
            self._steps = 1
            self.next_s = self._now_s + self._batch.steps_s(1)

    def _end_decode(self) -> None:
        for call in self._take_steps(self._steps):
            self._complete(call)
        self._fill_slots()

    def _take_steps(self, steps: int) -> list[SimCall]:
        """Take so many of the decode steps under way; return the calls that are done."""
        self._steps -= steps
        self._steps_since_plan += steps
        self.kv.grow(steps * len(self._batch))
        return self._batch.run(steps)

    def _begin_prefill(self) -> None:
        """Begin a step with the next chunks of prompts, in order of admission."""
        budget, read = self._model.chunk_tokens, 0
        for call in self._prefilling:
            tokens = min(budget, call.context_tokens - call.computed)
            self._chunks.append((call, tokens))
            read += call.computed
            budget -= tokens
            if not budget:
                break
        self._step_s = self._model.prefill_step_s(self._model.chunk_tokens - budget, read)
        self.next_s = self._now_s + self._step_s

    def _end_prefill(self) -> None:
        chunks, self._chunks = self._chunks, []
        self._steps_since_plan += 1
        for call, tokens in chunks:
            call.times.prefill_s += self._step_s
            call.owed_s += self._step_s
            call.computed += tokens
            if call.computed < call.context_tokens:
                continue
            # The step that ends a prompt gives the next token as well; only the last of the chunks may end short.
            self._prefilling.popleft()
            call.generated += 1
            call.computed += 1
            call.kv_tokens += 1
            self.kv.grow(1)
            if call.generated == call.output_tokens:
                self._complete(call)
            else:
                self._ready.append(call)
        self._fill_slots()

    def _fill_slots(self) -> None:
        while self._ready and len(self._batch) < self._model.slots:
            self._batch.join(self._ready.popleft())

    def _complete(self, call: SimCall) -> None:
        self._credit(call)
        self.kv.finish(call.program.id, call.hit, call.context_tokens - call.hit)
        self._remove(call)
        # What is left of the call's time is that of steps and transfers without it.
        call.times.batch_s = self._now_s - call.arrived_s - call.times.total_s
        self._on_complete(call, self._now_s)

    def _remove(self, call: SimCall) -> None:
        """Let the planner forget `call`, whose memory is no longer pinned, and hold its program's if it says so."""
        program = call.program.id
        if self.planner.remove(call, self._now_s, self.kv.history_tokens(program)):
            self.kv.hold(program)

    def _plan_is_due(self) -> bool:
        if self._plan_at_once or self.kv.pinned + self.kv.held > self._usable:
            return True
        if not self._waiting:
            return False
        return self._steps_since_plan >= self._plan_every or not (self._batch or self._prefilling)

    def _plan(self) -> float:
        """Let the planner decide and do what it says; return the seconds that transfers take."""
        self._plan_at_once = False
        self._steps_since_plan = 0
        if self.calls > self._places or self.kv.pinned + self.kv.held + self._waiting_tokens > self._usable:
            self._tell_planner()
        # A preempted call's KV may stay on the device too, as long as nobody needs the room.
        on_host = self.kv.host.tokens - self.kv.host.calls_tokens
        parking = on_host + self._usable - self.kv.pinned - self.kv.held - self.kv.parked
        capacity = Capacity(self._places, self._usable - self.kv.shared, max(0, parking))
        plan = self.planner.plan(capacity, self._now_s)
        for victim in cast("tuple[SimCall, ...]", plan.preempt):
            self._preempt(victim)
        for program in plan.release:
            self.kv.release(program)
        moved = sum(map(self._admit, cast("tuple[SimCall, ...]", plan.admit)))
        for parked, tokens in self.kv.evict(self._usable):
            parked.counts.swapped_tokens += tokens
        self._fill_slots()
        return self._model.transfer_s(moved)

    def _tell_planner(self) -> None:
        """Credit quanta that are spent and bring KV up to date: it matters when not everybody can run."""
        for call in self._batch.quantum_spent():
            self._credit(call)
            self._batch.watch(call)
        # Of the calls whose prompts are not computed, only the first can have been served since it was credited.
        for call in (*islice(self._prefilling, 1), *self._ready):
            self._credit(call)
        self._batch.refresh_kv_tokens()

    def _credit(self, call: SimCall) -> None:
        if call.owed_s:
            owed_s, call.owed_s = call.owed_s, 0.0
            self.planner.credit(call, owed_s, self._now_s)

    def _stop(self, call: SimCall) -> None:
        """Take a running call out of wherever it is."""
        if call in self._batch:
            self._batch.leave(call)
        elif call in self._ready:
            self._ready.remove(call)
        else:
            self._prefilling.remove(call)
        self._credit(call)

    def _preempt(self, call: SimCall) -> None:
        """Let a running call wait; what it computed stays cached."""
        self._stop(call)
        own = call.context_tokens - call.hit
        self.kv.park(call, call.program.id, call.hit, own, call.computed - call.hit)
        self._enqueue(call)
        call.preempted_s = self._now_s
        call.queued_at = call.level, call.rank
        call.counts.preemptions += 1

    def _drop_aborted(self) -> None:
        """Forget the aborted calls that the last step did not complete; who waits is planned for their places."""
        for call in self._aborted:
            if call.generated == call.output_tokens:
                continue
            if call.running:
                self._stop(call)
                self.kv.park(call, call.program.id, call.hit, call.context_tokens - call.hit, computed_tokens=0)
            else:
                self._waiting -= 1
                self._waiting_tokens -= call.kv_tokens
                self.kv.unpark(call)
            self._remove(call)
            self._plan_at_once = self._waiting > 0
        self._aborted.clear()
        self._fill_slots()

    def _enqueue(self, call: SimCall) -> None:
        """Count a call that begins to wait, with all the memory it may need: what it shares may be evicted before."""
        call.kv_tokens = call.context_tokens
        self._waiting += 1
        self._waiting_tokens += call.kv_tokens

    def _admit(self, call: SimCall) -> int:
        """Pin the memory of `call` and queue it for what it still has to compute; return the tokens to bring back."""
        self.planner.joined(call, self._now_s)
        self._waiting -= 1
        self._waiting_tokens -= call.kv_tokens
        # Nothing but a promotion moves a call that waits.
        call.counts.promotions += call.queued_at != (call.level, call.rank)
        context = call.context_tokens
        if call.preempted_s is None:
            call.times.admission_s = self._now_s - call.arrived_s
            # The last prompt token is always computed: it gives the first output token.
            moved = self._pin(call, min(call.trace.shared_prefix_tokens, context - 1))
            call.computed = call.counts.cached_tokens = call.hit
        else:
            call.times.retraction_s += self._now_s - call.preempted_s
            moved = self._restore(call)
        call.kv_tokens = context - call.hit
        if call.computed < context:
            self._prefilling.append(call)
        else:
            self._ready.append(call)
        return moved

    def _restore(self, call: SimCall) -> int:
        """Give a preempted call back what is left of its KV; return the tokens to bring back from the host."""
        parked = self.kv.unpark(call)
        computed, call.computed = call.computed, parked.tokens
        moved = self._pin(call, call.hit)
        call.computed += call.hit
        call.counts.recomputed_tokens += computed - call.computed
        if parked.on_host:
            call.times.swap_s += self._model.transfer_s(parked.tokens)
            moved += parked.tokens
        return moved

    def _pin(self, call: SimCall, shared_tokens: int) -> int:
        """Pin the memory of `call`, up to `shared_tokens` of it shared; return the tokens to bring back."""
        moved = self.kv.bring_back(call.program.id, shared_tokens)
        call.times.swap_s += self._model.transfer_s(moved)
        call.hit = self.kv.pin(call.program.id, shared_tokens, call.context_tokens)
        return moved
