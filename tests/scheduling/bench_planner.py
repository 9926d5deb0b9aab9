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
from statistics import quantiles

from small_engine import make_call

from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import Planner, PlannerSettings
from autellix_server.scheduling.policies import POLICIES, make_policy

LIVE = 1_000
SLOTS = 256
ROUNDS = 2_000
STEP_S = 0.02


def measure(policy: str) -> tuple[list[float], list[float]]:
    """Return microseconds of each plan, and of each round's bookkeeping beside it."""
    rng = random.Random(policy)
    planner = Planner(make_policy(policy, geometric_levels()), PlannerSettings(beta=20.0))
    capacity = Capacity(SLOTS, SLOTS * 1_000, SLOTS * 1_000)
    live = []
    plans_us, other_us = [], []
    for number in range(LIVE + ROUNDS):
        start = time.thread_time()
        call = make_call(f"p{rng.randrange(400)}", number, rng.expovariate(0.1), rng.randrange(200, 2_000))
        call.remaining_s, call.base_wait_s = rng.expovariate(0.1), rng.expovariate(0.1)
        now = number * STEP_S
        planner.arrive(call, now)
        live.append(call)
        if number >= LIVE:
            finished = next(call for call in live if call.running)
            live.remove(finished)
            planner.remove(finished, now)
            for running in live:
                if running.running:
                    planner.credit(running, STEP_S, now)
        before = time.thread_time()
        planner.plan(capacity, now)
        after = time.thread_time()
        if number >= LIVE:
            plans_us.append((after - before) * 1e6)
            other_us.append((before - start) * 1e6)
    return plans_us, other_us


def main() -> None:
    """Print one line a policy."""
    gc.disable()
    print(f"{LIVE} live calls, {SLOTS} slots\npolicy         plan p50   p99 us   bookkeeping p50 us")
    for policy in POLICIES:
        plans_us, other_us = measure(policy)
        cuts, other = quantiles(plans_us, n=100), quantiles(other_us, n=100)
        print(f"{policy:<14} {cuts[49]:8.1f} {cuts[98]:8.1f} {other[49]:12.1f}")


if __name__ == "__main__":
    main()
