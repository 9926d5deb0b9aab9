"""What one decision of the planner costs over 1,000 live calls, in microseconds, for every policy.

Run it alone: ``python tests/scheduling/bench_planner.py``. Between two plans a running call finishes, a call arrives,
and every running call is credited with a step. Medians and 99th percentiles over 2,000 plans, 256 of 1,000 calls
running; the last column is all bookkeeping between two plans, the credits of a step included. Time is that of the CPU,
so that a busy machine does not show; the garbage collector is off, since what it costs is up to the rest of a process.
"""

from __future__ import annotations

import gc
import random
import time
from dataclasses import dataclass, field
from math import inf
from statistics import mean, quantiles

from small_engine import make_call

from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import Planner, PlannerSettings
from autellix_server.scheduling.policies import POLICIES, make_policy

LIVE = 1_000
SLOTS = 256
ROUNDS = 2_000
STEP_S = 0.02
TOKENS = 1_000
HOLDS = 1_000


@dataclass
class Costs:
    """Microseconds of each plan and of each round's bookkeeping beside it, and what there was to plan for."""

    plans_us: list[float] = field(default_factory=list)
    other_us: list[float] = field(default_factory=list)
    holds: list[int] = field(default_factory=list)
    awaited: list[int] = field(default_factory=list)
    running: list[int] = field(default_factory=list)


def measure(policy: str, holds: int) -> Costs:
    """Drive one planner, with room for about so many holds."""
    rng = random.Random(policy)
    settings = PlannerSettings(beta=20.0, hold_s=inf if holds else 0.0)
    planner = Planner(make_policy(policy, geometric_levels()), settings)
    capacity = Capacity(LIVE if holds else SLOTS, (SLOTS + holds) * TOKENS, SLOTS * TOKENS)
    programs = holds + LIVE if holds else 400
    live, costs = [], Costs()
    # Before the first round, as many calls come and go as there are to be holds.
    for number in range(holds + LIVE + ROUNDS):
        counts = number >= holds + LIVE
        now = number * STEP_S
        start = time.thread_time()
        call = make_call(
            f"p{rng.randrange(programs)}", number, rng.expovariate(0.1), rng.randrange(TOKENS // 5, 2 * TOKENS)
        )
        call.remaining_s, call.base_wait_s = rng.expovariate(0.1), rng.expovariate(0.1)
        planner.arrive(call, now)
        live.append(call)
        if counts or len(live) > LIVE:
            finished = next(call for call in live if call.running)
            live.remove(finished)
            planner.remove(finished, now, finished.kv_tokens)
            for running in live:
                if running.running:
                    planner.credit(running, STEP_S, now)
        before = time.thread_time()
        plan = planner.plan(capacity, now)
        for admitted in plan.admit:
            planner.joined(admitted, now)
        after = time.thread_time()
        if counts:
            costs.plans_us.append((after - before) * 1e6)
            costs.other_us.append((before - start) * 1e6)
            costs.holds.append(sum(1 for _ in planner._holds))
            costs.awaited.append(len(planner._holds.awaited(10 * TOKENS)))
            costs.running.append(planner.running)
    return costs


def main() -> None:
    """Print one line a policy, and one more with holds."""
    gc.disable()
    print(f"{LIVE} live calls\npolicy         holds  awaited  running   plan p50   p99 us   bookkeeping p50 us")
    for policy in POLICIES:
        aware = make_policy(policy, geometric_levels()).program_aware
        for holds in (0, HOLDS) if aware else (0,):
            costs = measure(policy, holds)
            cuts, other = quantiles(costs.plans_us, n=100), quantiles(costs.other_us, n=100)
            there = f"{mean(costs.holds):6.0f} {mean(costs.awaited):8.0f} {mean(costs.running):8.0f}"
            print(f"{policy:<13} {there} {cuts[49]:10.1f} {cuts[98]:8.1f} {other[49]:12.1f}", flush=True)


if __name__ == "__main__":
    main()
