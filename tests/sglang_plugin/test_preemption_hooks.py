"""The planner's hooks on a fake scheduler: who runs, who leaves for whom, and who is left alone."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from fake_scheduler import FakeReq, FakeScheduler
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.scheduling.policies import SERVABLE, make_policy
from autellix_server.sglang_plugin.driver import PlannerDriver
from autellix_server.sglang_plugin.kept import KeptKv
from autellix_server.sglang_plugin.preemption import PreemptionHooks
from autellix_server.sglang_plugin.requests import call_of
from autellix_server.sglang_plugin.room import RoomMeter, can_leave
from autellix_server.stamp import EndedProgram


class Engine:
    """A fake scheduler under the hooks; every step gives each running request a token and a second of service."""

    def __init__(
        self, slots: int, tokens: int = 10_000, policy: str = "plas", plan_every: int = 4, hold_s: float = 0.0
    ) -> None:
        self.scheduler = FakeScheduler(slots, tokens)
        self.tree = self.scheduler.tree_cache
        settings = PlannerSettings(hold_s=hold_s, steps_between_plans=plan_every)
        self.driver = PlannerDriver(make_policy(policy, geometric_levels()), settings)
        kept = KeptKv(self.tree.match)
        # Requests that the scheduler passes over, as it does those whose adapter is not loaded.
        self.unloaded: list[FakeReq] = []
        self.hooks = PreemptionHooks(
            self.driver, RoomMeter(4096), kept, self.scheduler.release, lambda: self.scheduler.now_us
        )

    def step(self, count: int = 1) -> None:
        """Let the engine schedule and run."""
        scheduler = self.scheduler
        for _ in range(count):
            self.hooks.new_batch(self._admit, scheduler, scheduler.running_batch)
            scheduler.forward_ct += bool(scheduler.running_batch.reqs)
            scheduler.now_us += 1_000_000
            for req in scheduler.running_batch.reqs:
                req.output_ids.append(1)
                req.kv.kv_committed_len += 1
                call = call_of(req)
                if call is not None:
                    self.driver.credit(call, 1.0, scheduler.now_us / 1e6)
            for req in list(scheduler.running_batch.reqs):
                if len(req.output_ids) >= req.max_new_tokens:
                    scheduler.finish(req)
            scheduler.running_batch.batch_is_full = False

    def _admit(self, scheduler: FakeScheduler, running_batch: Any) -> str:
        self.hooks.order_queue(lambda *_: None, None, scheduler.waiting_queue)
        unloaded = [req for req in scheduler.waiting_queue if req in self.unloaded]
        scheduler.waiting_queue = [req for req in scheduler.waiting_queue if req not in unloaded]
        planned = scheduler.admit(scheduler, running_batch)
        scheduler.waiting_queue += unloaded
        return planned

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


def test_call_with_logprobs_of_its_output_comes_back_for_the_next_token_alone() -> None:
    """Where they begin would keep the engine from finding the output that is there already."""
    engine = Engine(slots=1)
    heavy = engine.scheduler.submit("heavy", 9.0, return_logprob=True, logprob_start_len=10)
    engine.step(2)
    engine.scheduler.submit("fresh")
    engine.step()
    assert engine.scheduler.released == ["heavy"]
    assert heavy.logprob_start_len == -1


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


def test_nobody_leaves_for_long_for_a_call_that_the_engine_passes_over() -> None:
    """Its adapter is not loaded, say. After each refusal twice as many plans pass it over, until it runs once."""
    engine = Engine(slots=2)
    for name in ("heavy", "heavier"):
        engine.scheduler.submit(name, 9.0, max_new_tokens=2000)
    engine.step(2)
    refused = engine.scheduler.submit("refused", max_new_tokens=2000)
    engine.unloaded.append(refused)
    released = engine.scheduler.released
    left = []
    for step in range(128):
        before = len(released)
        engine.step()
        left += [step] * (len(released) - before)
    assert left == [0, 8, 20, 40, 76]
    assert engine.driver.counts.in_vain == 5
    engine.unloaded.clear()
    engine.step(20)
    assert "refused" in engine.running
    assert (refused.autellix.call.refusals, refused.autellix.call.passed_until_step) == (0, 0)


def test_call_behind_one_that_the_engine_passes_over_has_its_turn() -> None:
    """Another leaves for it, as if the first were not there."""
    engine = Engine(slots=1)
    engine.scheduler.submit("heavy", 20.0, max_new_tokens=2000)
    engine.step(2)
    engine.unloaded.append(engine.scheduler.submit("refused", max_new_tokens=2000))
    engine.step(3)
    assert engine.driver.counts.in_vain == 1
    engine.scheduler.submit("medium", 9.0, max_new_tokens=2000)
    engine.step(4)
    assert engine.running == ["medium"]


def prompt_in_chunks(engine: Engine, **fields: Any) -> FakeReq:
    """A call of a heavy program whose prompt takes several steps more, and a fresh call that waits."""
    scheduler = engine.scheduler
    prompt = scheduler.submit("prompt", 9.0, prompt_tokens=500, **fields)
    engine.step()
    scheduler.running_batch.reqs.remove(prompt)
    prompt.output_ids.clear()
    prompt.prefix_len = prompt.kv.kv_committed_len = 64
    scheduler.chunked_req = prompt
    scheduler.submit("fresh")
    return prompt


def test_prompt_in_chunks_leaves_between_two_of_them_for_a_better_call() -> None:
    """It would take whole steps, though there is room for both; it goes on as soon as the better call is in."""
    engine = Engine(slots=4)
    prompt_in_chunks(engine)
    engine.step()
    assert engine.scheduler.chunked_req is None
    assert engine.scheduler.names() == (["fresh"], ["prompt"])
    assert engine.scheduler.seen[-1] == ["fresh"]
    assert engine.driver.counts.preemptions == 1
    engine.step()
    assert engine.running == ["fresh", "prompt"]
    assert engine.driver.counts.in_vain == 0


@pytest.mark.parametrize(
    "state", [{"return_logprob": True, "logprob_start_len": 0}, {"to_finish": "abort"}], ids=["logprobs", "aborted"]
)
def test_prompt_in_chunks_with_state_that_would_be_lost_stays(state: dict[str, Any]) -> None:
    """As such calls do that have begun to answer."""
    engine = Engine(slots=4)
    prompt = prompt_in_chunks(engine, **state)
    engine.hooks.new_batch(lambda *_: None, engine.scheduler, engine.scheduler.running_batch)
    assert engine.scheduler.chunked_req is prompt
    assert engine.scheduler.released == []


def test_prompt_in_chunks_is_waited_for_by_calls_that_are_no_better() -> None:
    """Room made for them now would stand empty."""
    engine = Engine(slots=2)
    engine.scheduler.submit("heavy", 40.0)
    engine.step(2)
    engine.scheduler.submit("prompt", 1.0, prompt_tokens=500)
    engine.step()
    prompt = engine.scheduler.running_batch.reqs.pop()
    prompt.prefix_len = prompt.kv.kv_committed_len = 64
    engine.scheduler.chunked_req = prompt
    engine.scheduler.submit("medium", 20.0)
    engine.hooks.new_batch(lambda *_: None, engine.scheduler, engine.scheduler.running_batch)
    assert engine.scheduler.released == []


@pytest.mark.parametrize(("attained_s", "turns"), [(0.0, 1), (40.0, 0)], ids=["better", "no better"])
def test_prompt_in_chunks_leaves_every_other_step_to_better_calls(attained_s: float, turns: int) -> None:
    """Else they would not go on before all of it is computed."""
    engine = Engine(slots=4)
    engine.scheduler.submit("decodes", attained_s)
    engine.step(2)
    prompt_in_chunks(engine)
    engine.scheduler.waiting_queue.clear()
    engine.hooks.new_batch(lambda *_: None, engine.scheduler, engine.scheduler.running_batch)
    assert engine.scheduler._prefill_decode_interval_remaining == turns


def test_memory_that_runs_out_costs_the_worst_and_the_planner_learns_of_it() -> None:
    """The engine retracts in our order, keeps the KV, and queues the request again by itself."""
    engine = Engine(slots=3)
    heavy = engine.scheduler.submit("heavy", 9.0)
    engine.scheduler.submit("fresh")
    engine.step(2)
    batch = engine.scheduler.running_batch
    assert [batch.reqs[index].name for index in engine.hooks.retraction_order(sorted, batch.reqs)] == ["fresh", "heavy"]
    assert engine.hooks.release_retracted(lambda *_: pytest.fail("stock release"), batch, batch.reqs.index(heavy), 1)
    batch.reqs.remove(heavy)
    engine.scheduler.waiting_queue.append(heavy)
    heavy.autellix.call.pinned = True
    engine.driver.observe([heavy.autellix.call], [], [], step=3, now=3.0)
    assert not heavy.autellix.call.pinned
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
    assert can_leave(FakeReq("plain", output_ids=[1], return_logprob=True, logprob_start_len=10))
    assert not can_leave(FakeReq("other", **{"output_ids": [1], **state}))


def test_policy_learns_of_each_end_once() -> None:
    """A tag comes with every sample of a call."""
    engine = Engine(slots=1, policy="gittins")
    told: list[str] = []
    engine.driver.planner.policy.ended = lambda program, *_: told.append(program)  # type: ignore[method-assign]
    for _ in range(3):
        engine.driver.ended([EndedProgram("p", "agent", 1_000_000)], 1.0)  # type: ignore[arg-type]
    assert told == ["p"]


def test_kv_of_an_idle_program_stays_until_a_better_call_needs_the_room() -> None:
    """Calls of worse programs wait meanwhile, or take what is left."""
    engine = Engine(slots=4, tokens=100, hold_s=inf)
    engine.scheduler.submit("first", 0.0, "light", prompt_tokens=30, max_new_tokens=2)
    engine.step(3)
    assert engine.tree.locked == ["first"]
    engine.scheduler.submit("small", 9.0, "heavy", prompt_tokens=20, max_new_tokens=20)
    engine.scheduler.submit("large", 9.0, "heavier", prompt_tokens=60, max_new_tokens=20)
    engine.step(8)
    assert engine.scheduler.names() == (["small"], ["large"])
    assert engine.tree.locked == ["first"]
    engine.scheduler.submit("fresh", 0.0, "fresh", prompt_tokens=60, max_new_tokens=20)
    engine.step(8)
    assert engine.running == ["fresh"]


def test_kv_of_a_program_is_its_next_calls_own() -> None:
    """Once that runs, or when the program has ended, nothing is locked for it."""
    engine = Engine(slots=4, hold_s=inf)
    for end in (False, True):
        engine.scheduler.submit("call", 0.0, "program", max_new_tokens=2)
        engine.step(3)
        assert engine.tree.locked == ["call"]
        if end:
            engine.driver.ended([EndedProgram("program", "agent", 1_000_000)], 1.0)  # type: ignore[arg-type]
        else:
            engine.scheduler.submit("next", 0.0, "program", max_new_tokens=20)
            engine.step()
        engine.step()
        assert engine.tree.locked == []
        engine.step(20)


def away(begins_with: str, *, unloaded: bool) -> tuple[Engine, FakeReq]:
    """A call runs, another waits for more room than there is; 32 tokens are held of a program that now comes back.

    Args:
        begins_with: what its prompt begins with: "call" is what is held of it, "system" 20 tokens of that.
        unloaded: whether the engine passes it over.
    """
    engine = Engine(slots=4, tokens=100, hold_s=inf)
    engine.tree.kept["system"] = 20
    engine.scheduler.submit("runs", max_new_tokens=40)
    engine.scheduler.submit("call", 60.0, "program", prompt_tokens=30, max_new_tokens=2)
    engine.step(3)
    engine.scheduler.submit("large", 50.0, prompt_tokens=50, max_new_tokens=20)
    back = engine.scheduler.submit(
        "back", 60.0, "program", prompt_tokens=32, begins_with=begins_with, max_new_tokens=10
    )
    engine.unloaded += [back] * unloaded
    return engine, back


@pytest.mark.parametrize(("begins_with", "tokens"), [("call", 32), ("system", 20)])
def test_call_that_the_engine_does_not_let_in_finds_its_history_still(begins_with: str, tokens: int) -> None:
    """What a plan promises it stays locked until it runs, but for what it does not begin with."""
    engine, back = away(begins_with, unloaded=True)
    admitted = False
    for _ in range(6):
        engine.step()
        admitted |= back.autellix.call.running
    assert admitted
    assert engine.tree.protected_size() == engine.driver.planner.held_tokens == tokens
    engine.unloaded.clear()
    engine.step(5)
    assert engine.scheduler.names() == (["runs", "back"], ["large"])
    assert (engine.tree.locked, engine.driver.planner.held_tokens) == ([], 0)


@pytest.mark.parametrize("begins_with", ["call", "system", ""])
def test_call_of_a_program_that_is_held_passes_one_that_does_not_fit(begins_with: str) -> None:
    """The engine would look at nobody behind that; and what the call does not begin with is room for it as well."""
    engine, _ = away(begins_with, unloaded=False)
    engine.step(6)
    assert engine.scheduler.names() == (["runs", "back"], ["large"])
    assert engine.driver.counts.preemptions == 0


def test_call_that_passes_stands_behind_better_ones_that_are_let_in() -> None:
    """What one leaves for is looked at first."""
    engine = Engine(slots=4, tokens=100, hold_s=inf)
    engine.scheduler.submit("call", 20.0, "program", prompt_tokens=30, max_new_tokens=2)
    engine.step(3)
    engine.scheduler.submit("worst", 60.0, prompt_tokens=25, max_new_tokens=10)
    engine.step(2)
    engine.scheduler.submit("best", 0.0, prompt_tokens=25, max_new_tokens=10)
    engine.scheduler.submit("large", 10.0, prompt_tokens=75, max_new_tokens=10)
    engine.scheduler.submit("back", 20.0, "program", prompt_tokens=33, begins_with="call", max_new_tokens=5)
    engine.step(2)
    assert engine.scheduler.seen[-1] == ["best", "back", "large"]
    assert engine.scheduler.names() == (["best", "back"], ["large", "worst"])


def test_prompt_in_chunks_stays_when_only_worse_calls_are_let_in() -> None:
    """The better one that waits does not fit even so."""
    engine = Engine(slots=4, hold_s=inf)
    scheduler = engine.scheduler
    scheduler.submit("call", 60.0, "program", prompt_tokens=30, max_new_tokens=2)
    engine.step(3)
    prompt = prompt_in_chunks(engine)
    scheduler.waiting_queue.clear()
    scheduler.submit("large", prompt_tokens=20_000)
    back = scheduler.submit("back", 60.0, "program", prompt_tokens=33, begins_with="call", max_new_tokens=5)
    engine.hooks.new_batch(lambda *_: None, scheduler, scheduler.running_batch)
    assert back.autellix.call.running
    assert scheduler.chunked_req is prompt
    assert scheduler.released == []


def test_what_ran_between_two_looks_is_held_whole() -> None:
    """A call of one token never seen to run leaves all of its history."""
    engine = Engine(slots=4, hold_s=inf)
    engine.scheduler.submit("call", 0.0, "program", prompt_tokens=30, max_new_tokens=2)
    engine.step(3)
    engine.scheduler.submit("judge", 0.0, "program", prompt_tokens=40, begins_with="call", max_new_tokens=1)
    engine.step(2)
    assert engine.tree.locked == ["judge"]
    assert engine.tree.protected_size() == engine.driver.planner.held_tokens == 41


def test_engine_never_stands_still_for_what_idle_programs_share() -> None:
    """It is locked for as long as one of them is held, also after the one that it was booked to has ended."""
    engine = Engine(slots=4, tokens=120, hold_s=inf)
    engine.tree.kept["system"] = 50
    for program, tokens in (("a", 60), ("b", 68), ("a", 60)):
        engine.scheduler.submit(
            f"{program}{tokens}", 0.0, program, prompt_tokens=tokens, begins_with="system", max_new_tokens=2
        )
        engine.step(3)
    engine.driver.ended([EndedProgram("a", "agent", 1_000_000)], 1.0)  # type: ignore[arg-type]
    engine.step()
    assert engine.tree.protected_size() == 70
    assert engine.driver.planner.held_tokens == 20
    engine.scheduler.submit("large", 9.0, prompt_tokens=90, max_new_tokens=5)
    engine.step(3)
    assert engine.running == ["large"]


def test_nothing_is_kept_of_calls_that_nobody_comes_back_for() -> None:
    """Those without a program, those whose clients left, turns of a session, and of programs that ended meanwhile."""
    engine = Engine(slots=8, hold_s=inf)
    scheduler = engine.scheduler
    scheduler.submit("anonymous", single_call=True, max_new_tokens=2)
    scheduler.submit("turn", session=SimpleNamespace(streaming=True), max_new_tokens=2)
    scheduler.submit("ended", program="ended", max_new_tokens=2)
    left = scheduler.submit("left")
    engine.step()
    engine.driver.ended([EndedProgram("ended", "agent", 1_000_000)], 1.0)  # type: ignore[arg-type]
    scheduler.finish(left, "abort")
    engine.step(3)
    assert scheduler.names() == ([], [])
    assert (engine.tree.locked, engine.driver.planner.held_tokens) == ([], 0)


def test_what_is_held_goes_before_a_running_call_does() -> None:
    """When memory runs out in the middle of a decode."""
    engine = Engine(slots=4, hold_s=inf)
    for name in ("light", "heavy"):
        engine.scheduler.submit(name, 9.0 * (name == "heavy"), max_new_tokens=2)
    engine.step(3)
    assert engine.tree.locked == ["light", "heavy"]
    fits = iter([False, True])
    assert engine.hooks.decode_fits(lambda *_: next(fits), engine.scheduler.running_batch)
    assert engine.tree.locked == ["light"]
    assert not engine.hooks.decode_fits(lambda *_: False, engine.scheduler.running_batch)
    assert engine.tree.locked == []


def test_nothing_is_held_against_requests_that_the_planner_does_not_see() -> None:
    """The engine's own health check must not wait for room that no plan gives it, whoever came first."""
    engine = Engine(slots=4, tokens=100, hold_s=inf)
    for came_first in ("call", "health"):
        if came_first == "health":
            engine.scheduler.submit("running", prompt_tokens=60, max_new_tokens=5)
            engine.step()
        else:
            engine.scheduler.submit("done", prompt_tokens=60, max_new_tokens=2)
            engine.step(3)
            assert engine.tree.locked == ["done"]
        engine.scheduler.waiting_queue.append(FakeReq("health", prompt_tokens=40, max_new_tokens=2))
        engine.step(6)
        assert engine.scheduler.names() == ([], [])


def test_nothing_is_held_after_the_tree_was_reset() -> None:
    """Its nodes are no more."""
    engine = Engine(slots=4, hold_s=inf)
    engine.scheduler.submit("first", max_new_tokens=2)
    engine.step(3)
    engine.hooks.reset_tree(lambda tree: tree.locked.clear(), engine.tree)
    engine.step()
    assert (engine.tree.locked, engine.driver.planner.held_tokens) == ([], 0)


arrivals = st.lists(
    st.tuples(
        st.integers(0, 3),  # steps before the next one
        st.sampled_from(["a", "b", "c", "d"]),
        st.floats(0, 20),
        st.integers(5, 60),
        st.integers(2, 30),
        st.booleans(),  # it is aborted before the next one
        st.sampled_from([False, False, False, True]),  # a request comes after it that is not ours
    ),
    min_size=1,
    max_size=14,
)


@pytest.mark.parametrize("policy", [name for name in SERVABLE if name not in {"fcfs", "lpm"}])
@given(arrivals, st.integers(1, 4), st.integers(120, 400), st.integers(1, 8), st.sampled_from([0.0, 5.0, inf]))
def test_every_call_finishes_and_planner_and_engine_agree(
    policy: str,
    sequence: list[tuple[int, str, float, int, int, bool, bool]],
    slots: int,
    tokens: int,
    plan_every: int,
    hold_s: float,
) -> None:
    """Whatever arrives or is aborted, under every policy of the planner, with room for any one call at least."""
    engine = Engine(slots, tokens, policy, plan_every, hold_s)
    scheduler = engine.scheduler
    submitted, aborted = [], []
    for number, (steps, program, base_s, prompt_tokens, output_tokens, abort, stranger) in enumerate(sequence):
        req = scheduler.submit(
            f"call-{number}", base_s, program, prompt_tokens=prompt_tokens, max_new_tokens=output_tokens
        )
        submitted.append(req)
        engine.step(steps)
        if abort and req in scheduler.waiting_queue:
            scheduler.waiting_queue.remove(req)
            aborted.append(req)
        elif abort and req in scheduler.running_batch.reqs:
            scheduler.finish(req, "abort")
            aborted.append(req)
        if stranger:
            scheduler.waiting_queue.append(FakeReq(f"stranger-{number}", prompt_tokens, output_tokens))
    for _ in range(1000):
        if not scheduler.waiting_queue and not scheduler.running_batch.reqs:
            break
        engine.step()
        assert engine.driver.planner.waiting + engine.driver.planner.running >= sum(
            req in scheduler.waiting_queue for req in submitted
        )
    assert all(len(req.output_ids) == req.max_new_tokens for req in submitted if req not in aborted)
    engine.step()
    assert (engine.driver.planner.running, engine.driver.planner.waiting) == (0, 0)
    assert sum(req.retraction_count for req in submitted) == engine.driver.counts.preemptions
    assert len(engine.tree.locked) == len(engine.driver.planner.held)
