"""The engine model taken literally: one step at a time, every call touched by every step. Slow, and easy to believe."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.planner import Planner
from autellix_server.simulator.engine import usable_kv_tokens
from autellix_server.simulator.memory import KvPool
from autellix_server.simulator.model import EngineModel
from autellix_server.simulator.programs import SimCall


class StepEngine:
    """Stands in for `SimEngine`; shares the memory and the planner with it, and nothing of its arithmetic."""

    def __init__(
        self, name: str, model: EngineModel, planner: Planner, on_complete: Callable[[SimCall, float], None]
    ) -> None:
        self.name, self.model, self.planner, self.on_complete = name, model, planner, on_complete
        self.kv: KvPool[SimCall] = KvPool(model.kv_tokens, model.host_tokens)
        self.usable = usable_kv_tokens(model, planner.settings)
        self.next_s = inf
        self.now = 0.0
        self.step: list[tuple[SimCall, int]] = []  # members of the step under way, with their prompt tokens
        self.step_s = 0.0
        self.prefilling: list[SimCall] = []
        self.ready: list[SimCall] = []
        self.decoding: list[SimCall] = []
        self.waiting: list[SimCall] = []
        self.since_plan = 0
        self.at_once = False

    @property
    def calls(self) -> int:
        """Calls in the engine."""
        return self.planner.waiting + self.planner.running

    def arrive(self, call: SimCall, now: float) -> None:
        """Queue a call."""
        self.at_once |= not self.waiting
        self.waiting.append(call)
        call.kv_tokens = call.prompt_tokens
        call.cached_tokens = min(call.trace.shared_prefix_tokens, self.kv.history_tokens(call.program.id))
        self.planner.arrive(call, now)
        call.queued_at = call.level, call.rank
        if self.next_s == inf:
            self.next_s = now

    def program_ended(self, program: ProgramId, program_class: str, service_s: float, now: float) -> None:
        """Learn, and drop the KV of a program that nobody comes back for."""
        self.planner.program_ended(program, program_class, service_s, now)
        if self.planner.policy.program_aware:
            self.kv.forget(program)

    def proceed(self) -> None:
        """End the step under way, or begin the next."""
        self.now = self.next_s
        if self.step:
            self._end()
        else:
            self._begin()

    def _begin(self) -> None:
        idle = not (self.prefilling or self.decoding)
        queue_due = self.waiting and (self.since_plan >= self.planner.settings.steps_between_plans or idle)
        if self.at_once or queue_due or self.kv.pinned + self.kv.held > self.usable:
            self._plan()
        model = self.model
        if self.prefilling:
            left = model.chunk_tokens
            for call in self.prefilling:
                tokens = min(left, call.prompt_tokens + call.generated - call.computed)
                if tokens:
                    self.step.append((call, tokens))
                left -= tokens
            done, read = model.chunk_tokens - left, sum(call.computed for call, _ in self.step)
            self.step_s = model.step_s + model.prefill_token_s * done + model.prefix_token_s * read
        elif self.decoding:
            self.step = [(call, 0) for call in self.decoding]
            read = sum(call.prompt_tokens + call.generated for call in self.decoding)
            self.step_s = model.step_s + model.decode_sequence_s * len(self.decoding) + model.kv_token_s * read
        else:
            assert not self.waiting
            self.next_s = inf
            return
        self.next_s = self.now + self.step_s

    def _end(self) -> None:
        members, self.step = self.step, []
        self.since_plan += 1
        decoded = [call for call, tokens in members if not tokens]
        self.kv.grow(len(decoded))
        for call, tokens in members:
            call.owed_s += self.step_s
            if tokens:
                call.times.prefill_s += self.step_s
                call.computed += tokens
                if call.computed < call.prompt_tokens + call.generated:
                    continue
                self.prefilling.remove(call)
                self.ready.append(call)
                self.kv.grow(1)
            else:
                call.times.decode_s += self.step_s
            call.generated += 1
            call.computed += 1
            if call.generated == call.output_tokens:
                self._finish(call)
        self._fill()

    def _finish(self, call: SimCall) -> None:
        self._leave(call)
        self._credit(call)
        program = call.program.id
        self.kv.finish(program, call.hit, call.prompt_tokens + call.generated - call.hit)
        if self.planner.remove(call, self.now, self.kv.history_tokens(program)):
            self.kv.hold(program)
        call.times.batch_s = self.now - call.arrived_s - call.times.total_s
        self.on_complete(call, self.now)

    def _leave(self, call: SimCall) -> None:
        for place in (self.prefilling, self.ready, self.decoding):
            if call in place:
                place.remove(call)

    def _fill(self) -> None:
        while self.ready and len(self.decoding) < self.model.slots:
            self.decoding.append(self.ready.pop(0))

    def _credit(self, call: SimCall) -> None:
        if call.owed_s:
            owed_s, call.owed_s = call.owed_s, 0.0
            self.planner.credit(call, owed_s, self.now)

    def _plan(self) -> None:
        self.since_plan, self.at_once = 0, False
        running = [*self.prefilling, *self.ready, *self.decoding]
        needs = self.kv.pinned + self.kv.held + sum(call.kv_tokens for call in self.waiting)
        places = self.model.slots + self.planner.settings.spares
        if len(running) + len(self.waiting) > places or needs > self.usable:
            for call in [call for call in self.decoding if call.owed_s >= call.quantum_s]:
                self._credit(call)
            for call in [*self.prefilling, *self.ready]:
                self._credit(call)
            for call in running:
                call.kv_tokens = call.prompt_tokens + call.generated - call.hit
        on_host = self.kv.host.tokens - self.kv.host.calls_tokens
        parking = on_host + self.usable - self.kv.pinned - self.kv.held - self.kv.parked
        plan = self.planner.plan(Capacity(places, self.usable - self.kv.shared, max(0, parking)), self.now)
        for victim in plan.preempt:
            self._preempt(victim)
        for program in plan.release:
            self.kv.release(program)
        moved = sum(self._admit(call) for call in plan.admit)  # type: ignore[arg-type]
        for parked, tokens in self.kv.evict(self.usable):
            parked.counts.swapped_tokens += tokens
        self._fill()
        self.now += moved * self.model.kv_bytes_per_token / self.model.link_bytes_per_s

    def _preempt(self, call: SimCall) -> None:
        self._leave(call)
        self._credit(call)
        context = call.prompt_tokens + call.generated
        self.kv.park(call, call.program.id, call.hit, context - call.hit, call.computed - call.hit)
        call.kv_tokens, call.preempted_s = context, self.now
        call.queued_at = call.level, call.rank
        call.counts.preemptions += 1
        self.waiting.append(call)

    def _admit(self, call: SimCall) -> int:
        self.planner.joined(call, self.now)
        self.waiting.remove(call)
        call.counts.promotions += call.queued_at != (call.level, call.rank)
        context = call.prompt_tokens + call.generated
        back = 0
        if call.preempted_s is None:
            call.times.admission_s = self.now - call.arrived_s
            shared = min(call.trace.shared_prefix_tokens, context - 1)
        else:
            call.times.retraction_s += self.now - call.preempted_s
            parked = self.kv.unpark(call)
            back = parked.tokens if parked.on_host else 0
            shared = call.hit
        back += self.kv.bring_back(call.program.id, shared)
        call.hit = self.kv.pin(call.program.id, shared, context)
        if call.preempted_s is None:
            call.computed = call.counts.cached_tokens = call.hit
        else:
            call.counts.recomputed_tokens += call.computed - call.hit - parked.tokens
            call.computed = call.hit + parked.tokens
        call.times.swap_s += back * self.model.kv_bytes_per_token / self.model.link_bytes_per_s
        call.kv_tokens = context - call.hit
        (self.prefilling if call.computed < context else self.ready).append(call)
        return back
