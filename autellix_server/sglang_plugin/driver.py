"""The planner's driver: follows which calls wait and run in the engine, asks for a plan when one is due. Pure.

The engine has the last word on what fits: it admits calls by itself, in the planner's order, and retracts some when
memory runs out. So before every scheduling pass the driver takes over what the engine did since the last one, and what
a plan decides is who leaves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from autellix_server.scheduling.call import Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.planner import Plan, Planner, PlannerSettings
from autellix_server.scheduling.policy import Policy
from autellix_server.stamp import EndedProgram

_REMEMBERED_ENDS = 4096
_NO_PLAN = Plan((), ())
_MOST_REFUSALS = 4
"""One plan passes over a call that the engine did not let in, twice as many each time in a row; up to so many times."""


@dataclass(eq=False, slots=True)
class EngineCall(Call):
    """One engine request as the planner sees it.

    Attributes:
        start_level: priority level at its arrival.
        refusals: times in a row that a plan admitted it before all others, and the engine did not let it in.
        passed_until_step: forward pass up to which plans therefore pass it over.
        number: place in the order of arrival at this engine.
        single_call: its program is this call alone.
    """

    start_level: int = 0
    refusals: int = 0
    passed_until_step: int = 0
    number: int = 0
    single_call: bool = False


@dataclass(slots=True)
class Counts:
    """What the driver did since the engine started.

    Attributes:
        plans: plans made.
        preemptions: running calls that a plan made leave.
        in_vain: preemptions for a call that the engine then did not admit.
        retractions: running calls that the engine made leave, for want of memory.
    """

    plans: int = 0
    preemptions: int = 0
    in_vain: int = 0
    retractions: int = 0

    def to_json(self) -> dict[str, int]:
        """Return the counts as plain builtins."""
        return asdict(self)


class PlannerDriver:
    """One planner and the calls it knows. One instance per scheduler process, single-threaded.

    Args:
        policy: where calls start and move; this driver's own.
        settings: of the planner.
    """

    def __init__(self, policy: Policy, settings: PlannerSettings) -> None:
        self.planner = Planner(policy, settings)
        self.counts = Counts()
        self.refused = False
        """A call waits that waited before the last pass: the engine did not admit it then."""
        self.admitted: frozenset[Call] = frozenset()
        """Calls that the plan of this pass lets in."""
        self._ended: OrderedDict[EndedProgram, None] = OrderedDict()
        # Never iterated: its order would differ between ranks.
        self._live: set[EngineCall] = set()
        self._plan_every = settings.steps_between_plans
        self._planned_step = 0
        self._plan_at_once = False
        # What was planned in the last pass.
        self._last = _NO_PLAN
        # Calls that plans pass over.
        self._passed: list[EngineCall] = []

    def counted(self) -> dict[str, int]:
        """Return the counts so far, and what is held now: programs, and tokens of their KV."""
        return self.counts.to_json() | {
            "held_programs": len(self.planner.held),
            "held_tokens": self.planner.held_tokens,
        }

    def credit(self, call: EngineCall, service_s: float, now: float) -> None:
        """Charge a call for a step; one that the planner does not know, or no longer, is not charged."""
        if call in self._live:
            self.planner.credit(call, service_s, now)

    def ended(self, programs: Iterable[EndedProgram], now: float) -> None:
        """Let the policy learn from programs that ended. The same one can be told with each of several samples."""
        for program in programs:
            if program in self._ended:
                continue
            self._ended[program] = None
            if len(self._ended) > _REMEMBERED_ENDS:
                self._ended.popitem(last=False)
            self.planner.program_ended(program.id, program.program_class, program.service_us / 1_000_000, now)

    def observe(
        self,
        queued: Sequence[EngineCall],
        started: Sequence[EngineCall],
        gone: Sequence[EngineCall],
        step: int,
        now: float,
    ) -> list[EngineCall]:
        """Take over what the engine did since the last pass.

        Args:
            queued: calls that wait and did not then; `kv_tokens` is up to date.
            started: calls that run and did not then.
            gone: calls that do neither any longer; `kv_tokens` is what they leave behind.
            step: forward passes so far.
            now: seconds.

        Returns:
            Those of `gone` of whose programs the KV is held from now on.
        """
        last, self._last, self.admitted = self._last, _NO_PLAN, frozenset()
        for call in started:
            if call not in self._live:
                self._arrive(call, now)
            self.planner.joined(call, now)
            call.refusals = call.passed_until_step = 0
        self._correct(last, {*started, *gone}, step, now)
        known = [call for call in gone if call in self._live]
        self._live.difference_update(known)
        held = [call for call in known if self.planner.remove(call, now, call.kv_tokens)]
        self.refused = self.planner.waiting > 0
        self._look_again(step)
        for call in queued:
            if call not in self._live:
                self._arrive(call, now)
                # It may have to run at once, since nobody goes before it.
                self._plan_at_once |= self.planner.best_waiting is call
            elif call.running:
                self.counts.retractions += 1
                call.pinned = False
                self.planner.left(call, now)
        return held

    def release_held(self, now: float) -> None:
        """Hold no program any longer."""
        while self.planner.release_worst(now):
            pass

    def plan_is_due(self, step: int) -> bool:
        """Return whether to plan in this pass: who waits could run at once, or enough steps have passed."""
        at_once = self._plan_at_once or not self.planner.running
        return bool(self.planner.waiting) and (at_once or step - self._planned_step >= self._plan_every)

    def gives_way(self, prompt: EngineCall) -> bool:
        """Return whether a call whose prompt takes whole steps would leave for the first that waits."""
        return self.planner.gives_way(prompt, self.planner.best_waiting)

    def stalls_better(self, prompt: EngineCall) -> bool:
        """Return whether a better call runs than the one whose prompt takes whole steps."""
        return self.planner.gives_way(prompt, self.planner.best_running)

    def plan(self, capacity: Capacity, step: int, now: float, prompt: EngineCall | None = None) -> Plan:
        """Decide who leaves for whom. `kv_tokens` of every call and `pinned` of those that run are up to date.

        Args:
            capacity: what the engine can hold.
            step: forward passes so far.
            now: seconds.
            prompt: a call whose prompt takes whole steps and that gives way: it leaves if anybody is let in.
        """
        self._plan_at_once = False
        self._planned_step = step
        plan = self.planner.plan(capacity, now)
        if prompt is not None and prompt.running and any(self.planner.gives_way(prompt, call) for call in plan.admit):
            self.planner.left(prompt, now)
            plan = replace(plan, preempt=(*plan.preempt, prompt))
        self._last = plan
        self.admitted = frozenset(plan.admit)
        self.counts.plans += 1
        self.counts.preemptions += len(plan.preempt)
        if not plan.admit and not self.planner.running:
            # Less is held than stays locked, where programs share: let it go rather than stand still.
            self.release_held(now)
        return plan

    def _arrive(self, call: EngineCall, now: float) -> None:
        self._live.add(call)
        self.planner.arrive(call, now)
        call.start_level = call.level

    def _correct(self, last: Plan, let_in: set[EngineCall], step: int, now: float) -> None:
        """Correct the planner, which takes for running those that it admitted and the engine did not let in."""
        refused = [call for call in last.admit if call.running and call not in let_in]
        for call in refused:
            self.planner.left(call, now)
        # Those behind the first may have to wait for the next step only because this one is full.
        if refused and last.preempt and refused[0] is last.admit[0] and isinstance(refused[0], EngineCall):
            self._pass_over(refused[0], step)
        if refused and len(refused) == len(last.admit):
            self.counts.in_vain += len(last.preempt)
            if not self.planner.running:
                # The engine stands still: nothing may be held against whom it has to serve.
                self.release_held(now)

    def _pass_over(self, call: EngineCall, step: int) -> None:
        """Let plans pass over a call that the engine did not let in though others left: its reasons may last.

        Others would leave for it in vain at every plan. The engine lets it in by itself as soon as it can.
        """
        call.passed_until_step = step + (self._plan_every << call.refusals)
        call.refusals = min(call.refusals + 1, _MOST_REFUSALS)
        call.pinned = True
        self._passed.append(call)

    def _look_again(self, step: int) -> None:
        """Pass no call over any longer whose time is up, and none in this plan if nobody runs who could leave."""
        waiting = [call for call in self._passed if call in self._live and not call.running]
        for call in waiting:
            call.pinned = step <= call.passed_until_step and self.planner.running > 0
        self._passed = [call for call in waiting if step <= call.passed_until_step]
