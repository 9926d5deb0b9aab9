"""One call as the scheduler sees it, and the place in line that a policy gives it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import inf

from autellix_sdk.wire import CallContext
from autellix_server.scheduling.shares import NO_TENANT, TenantStanding

Key = tuple[int, float, int]

LAST: Key = (sys.maxsize, inf, 0)
"""Place in line behind all others."""

PROTECTED_RANK = -inf
"""Rank in level 0 of a call that was overtaken too often; no policy gives it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a policy puts a call, and for how long.

    Attributes:
        level: priority level, 0 is the best.
        rank: order inside the level, smaller first; calls of equal rank run in order of entry to the level.
        quantum_s: seconds of service after which the policy is asked again; ``inf``: never.
    """

    level: int
    rank: float = 0.0
    quantum_s: float = inf


@dataclass(eq=False, slots=True)
class Call:
    """One call. The driver (engine plugin or simulator) owns it; the planner orders it.

    The driver sets the fields of the first group when the call arrives and keeps `kv_tokens` and `pinned` current. The
    second group belongs to the planner; the driver may read it. A driver that does not account step by step may let
    service add up and credit it when `quantum_s` seconds of it are reached, when the call leaves the batch, or when it
    finishes.

    Attributes:
        context: program, thread, call and parents.
        arrived_s: when it arrived.
        prompt_tokens: length of the prompt.
        base_service_s: its program's attained service at arrival, from the program table.
        base_wait_s: its program's waiting time at arrival, from the program table.
        tenant: where its tenant stood at arrival.
        kv_tokens: device tokens it holds or, when it waits, would hold if it were admitted now.
        cached_tokens: prompt tokens found in the prefix cache; after a change call `Planner.reorder`.
        program_class: what programs of its kind have in common, for policies that learn; empty: not known.
        pinned: no plan moves it, since the engine could not carry that out: while it runs it is not preempted, while it
            waits it is passed over.
        remaining_s: service its whole program still needs at this call's arrival, where an oracle knows it.
        service_s: service of this call so far, in seconds of engine steps it took part in.
        wait_s: waiting of this call so far, up to the start of its present wait.
        waits_from_s: when its present wait began, `None` when it runs or is gone.
        running: it is in the batch.
        key: place in line, as level and debt, rank and sequence: calls run in ascending order of it. No two calls of a
            planner have the same, and `LAST` stands for none yet.
        debt_levels: levels that the call stands further back than the policy put it, since its tenant is ahead of its
            share; as of when it last waited.
        quantum_s: service left until it moves to another level; ``inf``: it stays.
        ticket: place in the order of arrival of calls.
        program_ticket: place in the order of arrival of programs.
        in_flight_s: service so far of its program's other calls in flight, when it last entered a level.
        overtaken: how often a call that came later was admitted while this one waited.
        overtaken_mark: the guard's count of such admissions up to which `overtaken` goes.
    """

    context: CallContext
    arrived_s: float
    prompt_tokens: int
    base_service_s: float = 0.0
    base_wait_s: float = 0.0
    tenant: TenantStanding = NO_TENANT
    service_s: float = 0.0
    wait_s: float = 0.0
    kv_tokens: int = 0
    running: bool = False
    program_class: str = ""
    remaining_s: float | None = None
    cached_tokens: int = 0
    pinned: bool = False
    waits_from_s: float | None = None
    key: Key = LAST
    debt_levels: int = 0
    quantum_s: float = inf
    ticket: int = 0
    program_ticket: int = 0
    in_flight_s: float = 0.0
    overtaken: int = 0
    overtaken_mark: int = 0

    def __str__(self) -> str:
        return f"call {self.context.call} of program {self.context.program}"

    @property
    def level(self) -> int:
        """Priority level by the policy, 0 is the best."""
        return self.key[0] - self.debt_levels

    @property
    def rank(self) -> float:
        """Order inside the level, before `sequence`."""
        return self.key[1]

    @property
    def sequence(self) -> int:
        """Stamped at each entry to a level and kept across preemption."""
        return self.key[2]
