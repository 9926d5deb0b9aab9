"""The planner's hooks on a fake scheduler: who runs, who leaves for whom, and who is left alone."""

from __future__ import annotations

from typing import Any

import pytest
from fake_scheduler import FakeReq, FakeScheduler
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.scheduling.policies import SERVABLE, make_policy
from autellix_server.sglang_plugin.driver import PlannerDriver
from autellix_server.sglang_plugin.preemption import PreemptionHooks
from autellix_server.sglang_plugin.requests import call_of
from autellix_server.sglang_plugin.room import RoomMeter, can_leave
from autellix_server.stamp import EndedProgram


class Engine:
    """A fake scheduler under the hooks; every step gives each running request a token and a second of service."""

    def __init__(self, slots: int, tokens: int = 10_000, policy: str = "plas", plan_every: int = 4) -> None:
        self.scheduler = FakeScheduler(slots, tokens)
        settings = PlannerSettings(hold_s=0.0, steps_between_plans=plan_every)
        self.driver = PlannerDriver(make_policy(policy, geometric_levels()), settings)
        self.hooks = PreemptionHooks(
            self.driver, RoomMeter(4096), self.scheduler.release, lambda: self.scheduler.now_us
        )

    def step(self, count: int = 1) -> None:
        """Let the engine schedule and run."""
        scheduler = self.scheduler
        for _ in range(count):
            self.hooks.order_queue(lambda *_: None, None, scheduler.waiting_queue)
            self.hooks.new_batch(scheduler.admit, scheduler, scheduler.running_batch)
            scheduler.forward_ct += 1
            scheduler.now_us += 1_000_000
            for req in scheduler.running_batch.reqs:
                req.output_ids.append(1)
                req.kv.kv_committed_len += 1
                call = call_of(req)
                if call is not None:
                    self.driver.credit(call, 1.0, scheduler.now_us / 1e6)
            scheduler.running_batch.reqs = [
                req for req in scheduler.running_batch.reqs if len(req.output_ids) < req.max_new_tokens
            ]
            scheduler.running_batch.batch_is_full = False

    @property
    def running(self) -> list[str]:
        """Names of those that run."""
        return self.scheduler.names()[0]


def test_fresh_call_takes_the_slot_of_the_worst_running_one_at_once() -> None:
    """The one that attained most leaves, keeps its KV, and waits behind."""
    engine = Engine(slots=2)
    engine.scheduler.submit("heavy", 9.0)
    engine.scheduler.submit("medium", 3.0)
    engine.step(2)
    engine.scheduler.submit("fresh")
    engine.step()
    assert engine.scheduler.names() == (["medium", "fresh"], ["heavy"])
    assert engine.scheduler.released == ["heavy"]
    assert engine.driver.counts.preemptions == 1


def test_victim_is_queued_after_the_engine_looked_and_worse_calls_do_not_take_its_room() -> None:
    """While it is away nobody behind it is in sight."""
    engine = Engine(slots=1)
    engine.scheduler.submit("running", 3.0)
    engine.step(2)
    engine.scheduler.submit("worse", 9.0)
    engine.step()
    engine.scheduler.submit("fresh")
    engine.step()
    assert engine.scheduler.seen[-1] == ["fresh"]
    assert engine.scheduler.names()[1] == ["worse", "running"]
    engine.step()
    assert engine.scheduler.seen[-1] == ["running", "worse"]


def test_call_that_sinks_below_a_waiting_one_leaves_at_the_next_plan() -> None:
    """A call that arrives runs at once; after that nothing moves between plans, which come every fourth step."""
    engine = Engine(slots=1)
    engine.scheduler.submit("first")
    engine.step()
    engine.scheduler.submit("second")
    ran = []
    for _ in range(8):
        engine.step()
        ran += engine.running
    assert ran == ["second"] * 4 + ["first"] * 4


def test_tokens_are_made_free_for_a_better_call() -> None:
    """Slots are left, but the pool is not large enough for all."""
    engine = Engine(slots=4, tokens=100)
    engine.scheduler.submit("large", 9.0, prompt_tokens=40, max_new_tokens=30)
    engine.step(2)
    engine.scheduler.submit("fresh", prompt_tokens=30, max_new_tokens=10)
    engine.step(2)
    assert engine.scheduler.names() == (["fresh"], ["large"])


def test_nobody_leaves_while_the_engine_lets_in_whoever_waits() -> None:
    """The planner's own measure of a call is too large where prompts are shared: the engine's comes first."""
    engine = Engine(slots=4)
    for number in range(4):
        engine.scheduler.submit(f"call-{number}", float(number))
        engine.step(2)
    assert engine.driver.counts.plans == 0
    assert len(engine.running) == 4


def test_victim_is_left_alone_when_its_place_was_not_taken() -> None:
    """The engine refuses the call for which another left; for two plans the victim is not asked again."""
    engine = Engine(slots=1)
    engine.scheduler.submit("heavy", 9.0)
    engine.step(2)
    engine.scheduler.submit("fresh")

    def refuse(scheduler: FakeScheduler, batch: Any) -> None:
        for req in [req for req in scheduler.waiting_queue if req.name == "heavy"]:
            scheduler.waiting_queue.remove(req)
            batch.reqs.append(req)

    scheduler = engine.scheduler
    assert scheduler.names() == (["heavy"], ["fresh"])
    for _ in range(2):
        engine.hooks.new_batch(refuse, scheduler, scheduler.running_batch)
        scheduler.forward_ct += 1
    assert scheduler.names() == (["heavy"], ["fresh"])
    assert engine.driver.counts.in_vain == 1
    for _ in range(6):
        engine.hooks.new_batch(refuse, scheduler, scheduler.running_batch)
        scheduler.forward_ct += 1
    assert scheduler.released == ["heavy"]
    engine.step(5)
    assert scheduler.released == ["heavy", "heavy"]


def test_prompt_in_chunks_is_waited_for() -> None:
    """It takes whole steps, so that room made now would stand empty."""
    engine = Engine(slots=2)
    engine.scheduler.submit("heavy", 9.0)
    engine.step(2)
    engine.scheduler.chunked_req = FakeReq("long", prompt_tokens=500)
    engine.scheduler.submit("fresh")
    engine.hooks.new_batch(lambda *_: None, engine.scheduler, engine.scheduler.running_batch)
    assert engine.scheduler.released == []


def test_memory_that_runs_out_costs_the_worst_and_the_planner_learns_of_it() -> None:
    """The engine retracts in our order, keeps the KV, and queues the request again by itself."""
    engine = Engine(slots=3)
    heavy, fresh = engine.scheduler.submit("heavy", 9.0), engine.scheduler.submit("fresh")
    engine.step(2)
    batch = engine.scheduler.running_batch
    assert [batch.reqs[index].name for index in engine.hooks.retraction_order(sorted, batch.reqs)] == ["fresh", "heavy"]
    assert engine.hooks.release_retracted(lambda *_: pytest.fail("stock release"), batch, batch.reqs.index(heavy), 1)
    batch.reqs.remove(heavy)
    engine.scheduler.waiting_queue.append(heavy)
    engine.driver.observe([heavy.autellix.call], [fresh.autellix.call], step=3, now=3.0)
    assert (engine.driver.counts.retractions, engine.driver.planner.waiting) == (1, 1)
    assert heavy.retraction_count == 1


def test_request_that_the_engine_aborts_for_want_of_memory_is_released_its_way() -> None:
    """There is nothing to keep."""
    engine = Engine(slots=1)
    engine.scheduler.submit("only")
    engine.step()
    calls: list[tuple[Any, ...]] = []
    engine.hooks.release_retracted(lambda *args: calls.append(args), engine.scheduler.running_batch, 0, 0, False)
    assert calls == [(engine.scheduler.running_batch, 0, 0, False)]
    assert engine.scheduler.released == []


def test_calls_that_are_gone_are_forgotten() -> None:
    """Whatever ended them: finished, aborted in the queue, aborted in the batch."""
    engine = Engine(slots=1)
    engine.scheduler.submit("runs", max_new_tokens=4)
    waits = engine.scheduler.submit("waits", 5.0)
    engine.step(2)
    assert (engine.driver.planner.running, engine.driver.planner.waiting) == (1, 1)
    engine.scheduler.waiting_queue.remove(waits)
    engine.step(4)
    assert (engine.driver.planner.running, engine.driver.planner.waiting) == (0, 0)
    engine.driver.credit(waits.autellix.call, 1.0, 9.0)
    assert waits.autellix.call.service_s == 0.0


def test_requests_that_are_not_ours_go_first_and_are_never_victims() -> None:
    """The engine's own health checks have no program."""
    engine = Engine(slots=1)
    engine.scheduler.waiting_queue.append(FakeReq("health"))
    engine.scheduler.submit("ours")
    engine.step(6)
    assert engine.scheduler.names() == (["health"], ["ours"])
    assert engine.scheduler.released == []


@pytest.mark.parametrize(
    "state",
    [
        {"finished_reason": "stop"},
        {"to_finish": "abort"},
        {"output_ids": []},
        {"output_ids": [1] * 19},
        {"beam_group": "beams"},
        {"input_embeds": [[0.0]]},
        {"return_logprob": True, "logprob_start_len": 0},
        {"return_hidden_states": True},
        {"return_routed_experts": True},
    ],
)
def test_request_with_state_that_would_be_lost_never_leaves(state: dict[str, Any]) -> None:
    """Plain requests do, and so do those with logprobs of their output."""
    assert can_leave(FakeReq("plain", output_ids=[1], return_logprob=True))
    assert not can_leave(FakeReq("other", **{"output_ids": [1], **state}))


def test_policy_learns_of_each_end_once() -> None:
    """A tag comes with every sample of a call."""
    engine = Engine(slots=1, policy="gittins")
    told: list[str] = []
    engine.driver.planner.policy.ended = lambda program, *_: told.append(program)  # type: ignore[method-assign]
    for _ in range(3):
        engine.driver.ended([EndedProgram("p", "agent", 1_000_000)], 1.0)  # type: ignore[arg-type]
    assert told == ["p"]


arrivals = st.lists(
    st.tuples(
        st.integers(0, 3),  # steps before the next one
        st.sampled_from(["a", "b", "c", "d"]),
        st.floats(0, 20),
        st.integers(5, 60),
        st.integers(2, 30),
        st.booleans(),
    ),
    min_size=1,
    max_size=14,
)


@pytest.mark.parametrize("policy", [name for name in SERVABLE if name not in {"fcfs", "lpm"}])
@given(arrivals, st.integers(1, 4), st.integers(120, 400), st.integers(1, 8))
def test_every_call_finishes_and_planner_and_engine_agree(
    policy: str, sequence: list[tuple[int, str, float, int, int, bool]], slots: int, tokens: int, plan_every: int
) -> None:
    """Whatever arrives or is aborted, under every policy of the planner, with room for any one call at least."""
    engine = Engine(slots, tokens, policy, plan_every)
    scheduler = engine.scheduler
    submitted, aborted = [], []
    for number, (steps, program, base_s, prompt_tokens, output_tokens, abort) in enumerate(sequence):
        req = scheduler.submit(
            f"call-{number}", base_s, program, prompt_tokens=prompt_tokens, max_new_tokens=output_tokens
        )
        submitted.append(req)
        engine.step(steps)
        if abort and req in scheduler.waiting_queue:
            scheduler.waiting_queue.remove(req)
            aborted.append(req)
    for _ in range(1000):
        if not scheduler.waiting_queue and not scheduler.running_batch.reqs:
            break
        engine.step()
        assert engine.driver.planner.waiting + engine.driver.planner.running >= len(scheduler.waiting_queue)
    assert all(len(req.output_ids) == req.max_new_tokens for req in submitted if req not in aborted)
    engine.step()
    assert (engine.driver.planner.running, engine.driver.planner.waiting) == (0, 0)
    assert sum(req.retraction_count for req in submitted) == engine.driver.counts.preemptions
