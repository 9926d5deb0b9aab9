"""What the planner's hooks cost per scheduling pass over 1,000 live requests, in microseconds, for every policy.

Run it alone: ``python tests/sglang_plugin/bench_hooks.py``. On the fake scheduler, 256 of 1,000 requests run; between
two passes a request finishes, one arrives, and every running one is credited with a step, which counts. Passes in which
a plan is made are shown apart. Time is that of the CPU, with the garbage collector off.
"""

from __future__ import annotations

import gc
import random
import time
from statistics import median, quantiles

from fake_scheduler import FakeReq, FakeScheduler

from autellix_server.engine.command import is_planned
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.scheduling.policies import SERVABLE, make_policy
from autellix_server.sglang_plugin.driver import PlannerDriver
from autellix_server.sglang_plugin.kept import KeptKv
from autellix_server.sglang_plugin.preemption import PreemptionHooks
from autellix_server.sglang_plugin.requests import call_of
from autellix_server.sglang_plugin.room import RoomMeter

LIVE = 1_000
SLOTS = 256
PASSES = 1_500
STEP_S = 0.02


class HookedScheduler:
    """A fake scheduler with the hooks around it, and the time that they take of its passes."""

    def __init__(self, policy: str) -> None:
        self.rng = random.Random(policy)
        self.scheduler = FakeScheduler(SLOTS, tokens=10_000_000)
        self.driver = PlannerDriver(make_policy(policy, geometric_levels()), PlannerSettings())
        self.hooks = PreemptionHooks(
            self.driver,
            RoomMeter(4096),
            KeptKv(self.scheduler.tree_cache.match),
            self.scheduler.release,
            lambda: self.scheduler.now_us,
        )
        self.original_s = 0.0
        for number in range(LIVE):
            self.arrive(number)

    def arrive(self, number: int) -> None:
        """Submit a request of a program that has run for some time."""
        program = f"program-{self.rng.randrange(400)}"
        self.scheduler.submit(str(number), self.rng.expovariate(0.1), program, max_new_tokens=10_000)

    def one_pass(self) -> tuple[float, bool]:
        """Schedule, run and account for one step; return the microseconds of the hooks, and whether they planned."""
        scheduler, plans = self.scheduler, self.driver.counts.plans
        self.original_s = 0.0
        start = time.thread_time()
        self.hooks.new_batch(self._admit, scheduler, scheduler.running_batch)
        hooks_s = time.thread_time() - start - self.original_s
        scheduler.forward_ct += 1
        scheduler.now_us += round(STEP_S * 1e6)
        for req in scheduler.running_batch.reqs:
            req.output_ids.append(1)
            req.kv.kv_committed_len += 1
        calls = [call for req in scheduler.running_batch.reqs if (call := call_of(req)) is not None]
        start = time.thread_time()
        for call in calls:
            self.driver.credit(call, STEP_S, scheduler.now_us / 1e6)
        hooks_s += time.thread_time() - start
        scheduler.finish(self.rng.choice(scheduler.running_batch.reqs))
        scheduler.running_batch.batch_is_full = False
        return hooks_s * 1e6, self.driver.counts.plans > plans

    def _admit(self, scheduler: FakeScheduler, running_batch: object) -> None:
        self.hooks.order_queue(lambda *_: None, None, scheduler.waiting_queue)
        start = time.thread_time()
        while len(scheduler.running_batch.reqs) < SLOTS:
            req: FakeReq = scheduler.waiting_queue.pop(0)
            scheduler.running_batch.reqs.append(req)
            req.kv.kv_committed_len = req.prompt_tokens
        self.original_s = time.thread_time() - start


def main() -> None:
    """Print one line per policy."""
    print(f"{'policy':14}{'pass: median':>14}{'P99':>8}{'with a plan: median':>22}{'P99':>8}   (microseconds)")
    for policy in filter(is_planned, SERVABLE):
        gc.collect()
        gc.disable()
        hooked = HookedScheduler(policy)
        passes = []
        for number in range(LIVE, LIVE + PASSES):
            passes.append(hooked.one_pass())
            hooked.arrive(number)
        gc.enable()
        plain = [us for us, planned in passes[100:] if not planned]
        plans = [us for us, planned in passes[100:] if planned]
        print(
            f"{policy:14}{median(plain):14.0f}{quantiles(plain, n=100)[98]:8.0f}"
            f"{median(plans):22.0f}{quantiles(plans, n=100)[98]:8.0f}"
        )


if __name__ == "__main__":
    main()
