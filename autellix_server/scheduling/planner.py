"""The planner: which calls run. Pure and deterministic: `now` is a parameter, and every tie breaks by arrival."""

from __future__ import annotations

from collections.abc import KeysView
from dataclasses import dataclass
from math import inf

from autellix_sdk.errors import ConfigurationError
from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.bounds import BoundsInUse, Calibration
from autellix_server.scheduling.call import PROTECTED_RANK, Call, Key, Place
from autellix_server.scheduling.draft import Capacity, Draft, gives_way
from autellix_server.scheduling.holds import Holds
from autellix_server.scheduling.line import Line
from autellix_server.scheduling.live import LivePrograms
from autellix_server.scheduling.policy import Policy
from autellix_server.scheduling.shares import TenantDebts
from autellix_server.scheduling.starvation import OvertakingGuard, WaitGuard

_DEBT_QUANTA = 2
"""First bounds by which a tenant is ahead for each level of debt: fewer keep shares closer, more leave more to the
policy (docs/decisions/0014)."""


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """How the planner guards against starvation, and how often the driver asks it.

    Attributes:
        beta: a program that waited this many times as long as it was served is promoted; ``inf``: none is.
        max_overtakes: a call overtaken this often goes first; `None`: without bound.
        max_idle_programs: programs without a call in flight that are remembered.
        hold_s: seconds that the KV of a program is held between its calls, see `Holds`, if the policy is aware of
            programs; 0: not at all; ``inf``: until a better call needs the room.
        steps_between_plans: the driver plans every so many steps, and whenever a call arrives that could run at once.
        spares: calls that the driver admits beyond the plan, to take the place of one that finishes between plans.
        calibrated: the policy's first bound follows the median service of calls, see `Calibration`.

    Raises:
        ConfigurationError: a value is out of range; the message names it.
    """

    beta: float = 30.0
    max_overtakes: int | None = 1 << 14
    max_idle_programs: int = 1 << 16
    hold_s: float = 5.0
    steps_between_plans: int = 8
    spares: int = 1
    calibrated: bool = False

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigurationError(f"{name} must be at least {least}, got {value}")
        if not self.beta > 0:
            raise ConfigurationError(f"beta must be positive, got {self.beta}")


_LEAST = {
    "max_overtakes": 1,
    "max_idle_programs": 0,
    "hold_s": 0,
    "steps_between_plans": 1,
    "spares": 0,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What changes in the batch; every other running call is kept.

    Attributes:
        admit: waiting calls that may begin to run, best first. Before the next plan the driver says of each whether it
            did, see `Planner.joined` and `Planner.left`.
        preempt: running calls that leave, worst first.
        release: idle programs whose KV is held no longer; it is the cache's to evict.
    """

    admit: tuple[Call, ...]
    preempt: tuple[Call, ...]
    release: tuple[ProgramId, ...] = ()


class Planner:
    """Keeps calls in order of priority and decides which of them run. One thread.

    Source: Autellix section 4, Algorithm 1. Differs: a running call behind the first one that does not fit is kept
    until the room is needed by a better one, since nobody else could use it meanwhile.

    Args:
        policy: where calls start and move. If it learns, or its bounds are calibrated, it belongs to this planner.
        settings: guards and memory.
    """

    def __init__(self, policy: Policy, settings: PlannerSettings | None = None) -> None:
        self.policy = policy
        self.settings = settings or PlannerSettings()
        self._calibration = Calibration(policy.promotion_s, fixed=not self.settings.calibrated)
        self._waiting: Line[Call] = Line()
        self._running: Line[Call] = Line()
        self._debts = TenantDebts()
        self._programs = LivePrograms(self.settings.max_idle_programs)
        self._wait_guard = WaitGuard(self.settings.beta, self._programs)
        self._overtaking_guard = OvertakingGuard(self.settings.max_overtakes, self._waiting, self._running)
        self._holds = Holds(self.settings.hold_s if policy.program_aware else 0.0)
        self._sequence = 0

    @property
    def waiting(self) -> int:
        """Number of calls that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Number of calls that run."""
        return len(self._running)

    @property
    def bounds(self) -> BoundsInUse:
        """The bounds of the policy's levels now, and the median that they can follow."""
        calibration = self._calibration
        return BoundsInUse(
            calibration.first_bound_s, self.policy.levels.bounds_s, calibration.median_s, not calibration.fixed
        )

    def arrive(self, call: Call, now: float) -> None:
        """Enter a new call, at the level where the policy starts it (Algorithm 1, step 1)."""
        row = self._programs.enter(call.context.program)
        call.program_ticket, call.in_flight_s = row.ticket, row.in_flight_s
        self._debts.enter(call.tenant)
        self._enter_level(call, self.policy.start(call))
        call.ticket = call.sequence
        self._begin_wait(call, now)
        self._overtaking_guard.enter(call)
        self._holds.arrived(call)

    def credit(self, call: Call, service_s: float, now: float) -> None:
        """Add service to a call; when its quantum is spent it moves (Algorithm 1, step 3).

        Args:
            call: one that arrived and was not removed.
            service_s: seconds of engine steps since the last credit.
            now: seconds.
        """
        call.service_s += service_s
        row = self._programs[call.context.program]
        row.in_flight_s += service_s
        self._debts.credit(call.tenant.name, service_s)
        if call.quantum_s == inf:
            return
        call.quantum_s -= service_s
        if call.quantum_s <= 0:
            call.in_flight_s = row.in_flight_s - call.service_s
            line = self._line(call)
            line.remove(call)
            while call.quantum_s <= 0:
                self._enter_level(call, self.policy.move(call))
            line.add(call)

    def reorder(self, call: Call) -> None:
        """Place a call anew whose fields changed that its policy looks at, such as `Call.cached_tokens`."""
        if call.rank != PROTECTED_RANK:
            line = self._line(call)
            line.remove(call)
            place = self.policy.start(call)
            self._put(call, place, call.sequence)
            line.add(call)

    def remove(self, call: Call, now: float, program_kv_tokens: int = 0) -> bool:
        """Take out a call that finished or was aborted; return whether the KV of its program is held from now on.

        It is, if the call ran and was the program's last in flight, until a plan releases it, a call of the program
        runs, or the program ends. Meanwhile the driver must not evict it.

        Args:
            call: one that arrived and was not removed.
            now: seconds.
            program_kv_tokens: device tokens that there are of its program, this call's included; 0: nothing is held.

        Raises:
            ValueError: it is not here.
        """
        self._line(call).remove(call)
        program, ran = call.context.program, call.running
        idle = self._programs.leave(program, call.service_s)
        self._debts.leave(call.tenant.name, call.service_s)
        if self._calibration.left(call.service_s):
            self.policy.rescale(self._calibration.first_bound_s)
        if ran:
            call.running = False
        else:
            self._end_wait(call, now)
        self._holds.gone(call)
        return ran and idle and self._holds.make(program, program_kv_tokens, self._program_key(call), now)

    def release_worst(self, now: float) -> bool:
        """End the hold that is the first to go, since the engine ran out of memory; return whether there was one."""
        worst = next(self._holds.worst_first(now), None)
        if worst is not None:
            self._holds.drop(worst.program)
        return worst is not None

    def joined(self, call: Call, now: float) -> None:
        """Note that a call runs that a plan admitted, or that the engine let in by itself: it has the last word.

        What was held for its program is the call's own from now on.

        Args:
            call: one that a plan admitted, or that waits.
            now: seconds.
        """
        if not call.running:
            self._overtaking_guard.admitted((call,))
            self._run(call, now)
        self._holds.drop(call.context.program)

    def resize_hold(self, program: ProgramId, by: int) -> None:
        """Note that more or less is held of a program from now on: no more than its next call shares, say.

        Args:
            program: one that is held.
            by: device tokens, below 0 for fewer; where none are left the hold ends.
        """
        self._holds.resize(program, by)

    @property
    def holds_programs(self) -> bool:
        """Whether programs are held between their calls, under this policy and these settings."""
        return self._holds.enabled

    @property
    def held(self) -> KeysView[ProgramId]:
        """The programs whose KV is held: none of their calls runs yet."""
        return self._holds.programs

    @property
    def held_tokens(self) -> int:
        """Device tokens of all that is held."""
        return self._holds.kv_tokens

    @property
    def best_waiting(self) -> Call | None:
        """The first of the calls that wait, but for those that are pinned."""
        return next((call for call in self._waiting if not call.pinned), None)

    @property
    def best_running(self) -> Call | None:
        """The last of those that run to be preempted."""
        return next(iter(self._running), None)

    def gives_way(self, call: Call, other: Call | None) -> bool:
        """Return whether a running call would leave for another, if that needed its room; not for nobody."""
        return other is not None and gives_way(call, other, self.policy.margin)

    def left(self, call: Call, now: float) -> None:
        """Note that a running call waits again, without a plan: the engine took its memory, or did not let it in.

        What is held for its program, if the engine did not let it in, stays as it was.

        Args:
            call: one that runs, or that a plan admitted.
            now: seconds.
        """
        self._running.remove(call)
        call.running = False
        self._begin_wait(call, now)
        self._overtaking_guard.watch(call)

    def program_ended(self, program: ProgramId, program_class: str, service_s: float, now: float) -> None:
        """Let the policy learn from a program that ended, and forget the program.

        Args:
            program: the program; it need not have been seen here.
            program_class: what programs of its kind have in common; empty: not known.
            service_s: the service it attained in all.
            now: seconds.
        """
        self.policy.ended(program, program_class, service_s)
        self._programs.ended(program)
        self._holds.drop(program)

    def plan(self, capacity: Capacity, now: float) -> Plan:
        """Decide which calls run from now on, and mark them (Algorithm 1, steps 4 and 5).

        Calls are admitted in order, up to the first that does not fit even if every worse running call left that the
        host can take in, and no worse program's KV were held. Running calls and holds leave from the worst up when a
        better call needs their room, or when what runs outgrew the device. Behind that first call go on only those of
        programs whose KV is held, as far as they fit: nobody else could use the room. Where nothing else runs, the
        first call comes in whatever is held. Waiting calls that are pinned are passed over. The cost follows what
        changes, but for a sum over the running calls and a look at the held programs of which a call waits.

        Args:
            capacity: what the engine can hold. A call that does not fit it alone blocks those behind it; such calls
                must be refused on arrival.
            now: seconds.
        """
        self._promote(now)
        draft = Draft(capacity, self._running, self._holds, self.policy.margin, now)
        draft.shrink()
        self._fill(draft)
        for program in draft.release:
            self._holds.drop(program)
        for call in draft.preempt:
            self.left(call, now)
        self._overtaking_guard.admitted(draft.admit)
        for call in draft.admit:
            self._run(call, now)
        return Plan(tuple(draft.admit), tuple(draft.preempt), tuple(draft.release))

    def _fill(self, draft: Draft) -> None:
        """Let waiting calls in."""
        waiting = (call for call in self._waiting if not call.pinned)
        refused = (call for call in waiting if _waits_behind(call, draft) or not draft.displace_for(call))
        blocked = next(refused, None)
        if blocked is None:
            return
        if blocked.rank != PROTECTED_RANK:
            for call in draft.awaited():
                if blocked.key < call.key and not call.pinned and not _waits_behind(call, draft):
                    draft.fit_in(call)
        if draft.idle:
            draft.force_in(blocked)

    def _promote(self, now: float) -> None:
        """Move starved calls to the best level, and calls overtaken too often before all others.

        The best level is that of their tenant: who has many programs starves some of them by itself.
        """
        self._settle_debts()
        for call in self._wait_guard.starved(now):
            if call.level > 0:
                self._waiting.remove(call)
                self._enter_level(call, Place(0, call.rank, self.policy.promotion_s))
                self._waiting.add(call)
        for call in self._overtaking_guard.overtaken():
            self._waiting.remove(call)
            call.debt_levels = 0
            self._put(call, Place(0, PROTECTED_RANK), call.ticket)
            self._waiting.add(call)

    def _settle_debts(self) -> None:
        """Let the calls that wait stand where their tenants' debts put them now; what runs, runs on."""
        changed = self._debts.settle(_DEBT_QUANTA * self.policy.promotion_s)
        if changed:
            for call in self._waiting:
                if call.tenant.name in changed:
                    self._take_debt(call)
            self._waiting.resort()

    def _take_debt(self, call: Call) -> None:
        """Give a call the debt that its tenant has, unless it is protected; then it has to be put in line."""
        level, rank, sequence = call.key
        if rank != PROTECTED_RANK:
            level -= call.debt_levels
            call.debt_levels = self._debts.levels(call.tenant.name)
            call.key = (level + call.debt_levels, rank, sequence)

    def _enter_level(self, call: Call, place: Place) -> None:
        self._sequence += 1
        self._put(call, place, self._sequence)

    def _put(self, call: Call, place: Place, sequence: int) -> None:
        call.key, call.quantum_s = (place.level + call.debt_levels, place.rank, sequence), place.quantum_s

    def _program_key(self, call: Call) -> Key:
        """Return the place in line that the program of `call` keeps: protection is the call's alone."""
        if call.rank != PROTECTED_RANK:
            return call.key
        place = self.policy.start(call)
        return (place.level + call.debt_levels, place.rank, call.ticket)

    def _line(self, call: Call) -> Line[Call]:
        return self._running if call.running else self._waiting

    def _run(self, call: Call, now: float) -> None:
        self._waiting.remove(call)
        self._end_wait(call, now)
        call.running = True
        self._running.add(call)

    def _begin_wait(self, call: Call, now: float) -> None:
        call.waits_from_s = now
        self._take_debt(call)
        self._waiting.add(call)
        self._wait_guard.watch(call)

    def _end_wait(self, call: Call, now: float) -> None:
        if call.waits_from_s is not None:
            call.wait_s += now - call.waits_from_s
            call.waits_from_s = None


def _waits_behind(call: Call, draft: Draft) -> bool:
    """Return whether a call that is preempted goes before `call`."""
    return bool(draft.preempt) and draft.preempt[-1].key < call.key
