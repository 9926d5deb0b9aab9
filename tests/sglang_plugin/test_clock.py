"""The planner's clock: one scheduler goes by its own, of several ranks all go by the first one's, and decide alike."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from fake_scheduler import FakeReq, FakeScheduler
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.scheduling.policies import SERVABLE, make_policy
from autellix_server.sglang_plugin.clock import PlannerClock
from autellix_server.sglang_plugin.driver import PlannerDriver
from autellix_server.sglang_plugin.kept import KeptKv
from autellix_server.sglang_plugin.preemption import PreemptionHooks
from autellix_server.sglang_plugin.records import CallTag
from autellix_server.sglang_plugin.room import RoomMeter
from autellix_server.sglang_plugin.scheduler import SchedulerHooks
from autellix_server.stamp import EndedProgram

ALONE, TWO = (SimpleNamespace(server_args=SimpleNamespace(tp_size=size)) for size in (1, 2))


def make_clock(now_us: int = 5) -> tuple[PlannerClock, list[tuple[Sequence[Any], int]]]:
    """A clock that stands still, and what it charges."""
    charged: list[tuple[Sequence[Any], int]] = []
    return PlannerClock(lambda: now_us, lambda calls, length_us: charged.append((calls, length_us))), charged


def test_scheduler_without_peers_goes_by_its_own_clock_and_sends_nothing() -> None:
    """Steps are charged as they end."""
    clock, charged = make_clock()
    requests = ["request"]
    assert clock.receive(lambda _, sent, __: sent, ALONE, requests) is requests
    clock.step_ended(["call"], 7)  # type: ignore[list-item]
    assert (charged, clock.now_us()) == ([(["call"], 7)], 5)


def test_steps_of_ranks_are_charged_once_with_the_next_requests_at_the_first_ones_length() -> None:
    """The second rank measured 9 where the first measured 7."""
    (first, charged), (second, charged_there) = make_clock(5), make_clock(50)
    wire: list[Any] = []

    def send(_: Any, sent: list[Any] | None, local: list[Any] | None) -> list[Any]:
        if sent is not None:
            wire[:] = [*sent, *(local or [])]
        return [*wire]

    for requests in ([], ["request"]):
        received = [first.receive(send, TWO, requests, ["abort"]), second.receive(send, TWO, None)]
        assert received == [[*requests, "abort"]] * 2
        if not requests:
            first.step_ended(["call"], 7)  # type: ignore[list-item]
            second.step_ended(["call there"], 9)  # type: ignore[list-item]
            assert charged == charged_there == []
    first.receive(send, TWO, [])
    second.receive(send, TWO, None)
    assert (charged, charged_there) == ([(["call"], 7)], [(["call there"], 7)])
    assert first.now_us() == second.now_us() == 5


def test_rank_that_took_another_number_of_steps_fails_loudly() -> None:
    """It would compute something else than its peers from then on."""
    (first, _), (second, _) = make_clock(), make_clock()
    reading = first.receive(lambda _, sent, __: [*sent, *sent], TWO, [])
    second.receive(lambda *_: [*reading], TWO, None)
    second.step_ended([], 1)
    with pytest.raises(ValueError, match="ranks differ"):
        second.receive(lambda *_: [*reading], TWO, None)


class Rank:
    """One rank: a fake scheduler under all hooks, with a clock of its own that nobody else sees."""

    def __init__(self, policy: str, receiver: Any, started_us: int, slots: int, tokens: int, plan_every: int) -> None:
        self.scheduler = FakeScheduler(slots, tokens)
        self.scheduler.now_us = started_us
        self.receiver = receiver
        settings = PlannerSettings(beta=0.5, hold_s=0.05, steps_between_plans=plan_every)
        self.driver = PlannerDriver(make_policy(policy, geometric_levels()), settings)
        self.account = SchedulerHooks(lambda hints: hints, lambda: self.scheduler.now_us, self.driver)
        scheduler, clock = self.scheduler, self.account.clock
        self.planner = PreemptionHooks(
            self.driver, RoomMeter(4096), KeptKv(scheduler.tree_cache.match), scheduler.release, clock.now_us
        )

    def turn(self, broadcast: Any, arrived: list[Any] | None, step_us: int, *, reports: bool) -> None:
        """One pass of the event loop, with a step that takes `step_us` here."""
        scheduler = self.scheduler
        for name, tag, fields in self.account.clock.receive(broadcast, self.receiver, arrived):
            received = SimpleNamespace(kv_hints=tag)
            req = self.account.create_request(lambda *_, of=(name, fields): FakeReq(of[0], **of[1]), None, received)
            scheduler.waiting_queue.append(req)
        self.planner.order_queue(lambda *_: None, None, scheduler.waiting_queue)
        self.planner.new_batch(scheduler.admit, scheduler, scheduler.running_batch)
        reqs = scheduler.running_batch.reqs
        if reqs:
            scheduler.forward_ct += 1
            mode = SimpleNamespace(is_extend=lambda: False)
            batch = SimpleNamespace(reqs=[*reqs], forward_mode=mode, launch_ts=scheduler.now_us / 1e6)
            scheduler.now_us += step_us
            self.account.process_result(lambda *_: self._append_tokens(reports), scheduler, batch, None)

    def _append_tokens(self, reports: bool) -> None:
        batch = self.scheduler.running_batch
        for req in batch.reqs:
            req.output_ids.append(1)
            req.kv.kv_committed_len += 1
            if len(req.output_ids) >= req.max_new_tokens:
                req.finished_reason = SimpleNamespace(to_json=lambda: {"type": "length"})
            if reports:
                self.account.take_record(req)
        for req in [req for req in batch.reqs if req.finished()]:
            self.scheduler.finish(req)
            batch.batch_is_full = False

    def decisions(self) -> Any:
        """Who runs, who waits, who left, and what is held."""
        return self.scheduler.names(), self.scheduler.released, self.scheduler.tree_cache.locked

    def state(self) -> Any:
        """Decisions, and whatever the next ones depend on."""
        waiting = [req.autellix.call for req in self.scheduler.waiting_queue]
        calls = [*waiting, *(req.autellix.call for req in self.scheduler.running_batch.reqs)]
        times = [(call.key, call.service_s, call.quantum_s, call.wait_s, call.arrived_s) for call in calls]
        return self.decisions(), self.scheduler.seen[-1:], self.driver.counts, times


steps = st.integers(1_000, 3_000_000)
arrival = st.tuples(
    st.sampled_from(["a", "b", "c", "d"]), st.floats(0, 20), st.integers(5, 60), st.integers(2, 30), st.booleans()
)
turns = st.lists(st.tuples(steps, steps, st.lists(arrival, max_size=3)), min_size=1, max_size=30)


def request(number: int, program: str, base_s: float, prompt: int, output: int, one_ended: bool) -> Any:
    """What reaches the ranks of one call: its name, its tag and its size."""
    ended = (EndedProgram(f"old-{number}", "agent", number * 1_000_000),) if one_ended else ()  # type: ignore[arg-type]
    tag = CallTag(program, f"{number}.0", round(base_s * 1e6), program_class="agent", ended=ended)
    return f"call-{number}", tag, {"prompt_tokens": prompt, "max_new_tokens": output}


def replay(
    ranks: Sequence[Rank],
    played: Sequence[tuple[int, int, list[Any]]],
    compared: Callable[[Rank], Any] = Rank.state,
) -> bool:
    """Whether both ranks are the same in what is compared, after every turn, and in some more until all is done."""
    wire = b""

    def send(_: Any, sent: list[Any], __: Any) -> list[Any]:
        nonlocal wire
        wire = pickle.dumps(sent)
        return sent

    arrived = 0
    for turn in range(len(played) + 200):
        first_us, second_us, arrivals = played[turn] if turn < len(played) else (*played[turn % len(played)][:2], [])
        requests = [request(arrived + number, *one) for number, one in enumerate(arrivals)]
        arrived += len(arrivals)
        ranks[0].turn(send, requests, first_us, reports=True)
        alone = ranks[1].receiver is ALONE
        ranks[1].turn(lambda *_: pickle.loads(wire), requests if alone else None, second_us, reports=False)
        if compared(ranks[0]) != compared(ranks[1]):
            return False
    return True


@pytest.mark.parametrize("policy", [name for name in SERVABLE if name not in {"fcfs", "lpm"}])
@given(turns, st.integers(1, 4), st.integers(120, 400), st.integers(1, 8))
def test_ranks_whose_clocks_differ_decide_alike(
    policy: str, played: list[tuple[int, int, list[Any]]], slots: int, tokens: int, plan_every: int
) -> None:
    """Whatever arrives, and however long a step takes on each."""
    ranks = [Rank(policy, TWO, started_us, slots, tokens, plan_every) for started_us in (1_000_000, 77_000_000)]
    assert replay(ranks, played)


def test_ranks_that_went_by_their_own_clocks_would_part() -> None:
    """So the replay above would notice: two calls in turn on one slot, and one rank measures twice the time."""
    calls = [("a", 0.0, 10, 30, False), ("b", 0.0, 10, 30, False)]
    apart = [Rank("plas", ALONE, 1_000_000, slots=1, tokens=400, plan_every=2) for _ in range(2)]
    together = [Rank("plas", TWO, 1_000_000, slots=1, tokens=400, plan_every=2) for _ in range(2)]
    assert not replay(apart, [(300_000, 600_000, calls)], Rank.decisions)
    assert replay(together, [(300_000, 600_000, calls)])
    assert together[0].driver.counts.preemptions > 0
