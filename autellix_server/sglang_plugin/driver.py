"""The planner's driver: follows which calls wait and run in the engine, asks for a plan when one is due. Pure.

The engine has the last word on what fits: it admits calls by itself, in the planner's order, and retracts some when
memory runs out. So before every scheduling pass the driver takes over what the engine did since the last one, and what
a plan decides is who leaves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import inf

from autellix_server.scheduling.call import Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.planner import Plan, Planner, PlannerSettings
from autellix_server.scheduling.policy import Policy
from autellix_server.stamp import EndedProgram

_REMEMBERED_ENDS = 4096
_NO_PLAN = Plan((), ())
_PATIENCE = 2
"""Plans for which a call that was preempted in vain is left alone."""


@dataclass(eq=False, slots=True)
class EngineCall(Call):
    """One engine request as the planner sees it.

    Attributes:
        start_level: priority level at its arrival.
        kept_until_step: forward pass up to which it is not preempted.
    """

    start_level: int = 0
    kept_until_step: int = 0


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
        self._ended: OrderedDict[EndedProgram, None] = OrderedDict()
        # In order of arrival: what goes through them must do so alike on every rank.
        self._live: dict[EngineCall, None] = {}
        self._plan_every = settings.steps_between_plans
        self._planned_step = 0
        self._plan_at_once = False
        # What was planned in the last pass.
        self._last = _NO_PLAN

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

    def observe(self, waiting: Sequence[EngineCall], running: Sequence[EngineCall], step: int, now: float) -> None:
        """Take over what the engine did since the last pass.

        Args:
            waiting: every call in the engine's queue.
            running: every call in its batch, one whose prompt is being computed in chunks included.
            step: forward passes so far.
            now: seconds.
        """
        for call in running:
            if call not in self._live:
                self._arrive(call, now)
            if not call.running:
                self.planner.joined(call, now)
        fresh = [call for call in waiting if call not in self._live]
        known = [call for call in waiting if call in self._live] if fresh else waiting
        self.refused = bool(known)
        self._correct([call for call in known if call.running], step, now)
        if fresh:
            best = min((call.key for call in known), default=None)
            for call in fresh:
                self._arrive(call, now)
                # It may have to run at once, since nobody goes before it.
                self._plan_at_once |= best is None or call.key < best
        if len(self._live) > len(waiting) + len(running):
            there = {*waiting, *running}
            for call in [call for call in self._live if call not in there]:
                del self._live[call]
                self.planner.remove(call, now)

    def plan_is_due(self, step: int) -> bool:
        """Return whether to plan in this pass: who waits could run at once, or enough steps have passed."""
        return bool(self.planner.waiting) and (self._plan_at_once or step - self._planned_step >= self._plan_every)

    def plan(self, capacity: Capacity, step: int, now: float) -> Plan:
        """Decide who leaves for whom. `kv_tokens` and `pinned` of every call are up to date.

        A call that has to be kept for a while is pinned here.
        """
        self._plan_at_once = False
        self._planned_step = step
        for call in self._live:
            call.pinned |= step < call.kept_until_step
        plan = self.planner.plan(capacity, now)
        self._last = plan
        self.counts.plans += 1
        self.counts.preemptions += len(plan.preempt)
        return plan

    def _arrive(self, call: EngineCall, now: float) -> None:
        self._live[call] = None
        self.planner.arrive(call, now)
        call.start_level = call.level

    def _correct(self, calls: Sequence[EngineCall], step: int, now: float) -> None:
        """Correct the planner, which takes `calls` for running that wait: retracted, or not let in as planned."""
        last, self._last = self._last, _NO_PLAN
        not_let_in = set(last.admit).intersection(calls)
        for call in calls:
            self.planner.left(call, now)
        self.counts.retractions += len(calls) - len(not_let_in)
        if not_let_in:
            self.counts.in_vain += len(last.preempt)
            for victim in last.preempt:
                if isinstance(victim, EngineCall):
                    victim.kept_until_step = step + _PATIENCE * self._plan_every


def place(call: EngineCall | None) -> tuple[float, ...]:
    """Return the key by which the engine's queue is sorted.

    Requests that did not come through us, such as the engine's own health checks, go first: they are short and few. A
    call that the planner does not know yet goes last, until the next pass.
    """
    if call is None:
        return (-inf,)
    return call.key if call.ticket else (inf,)
