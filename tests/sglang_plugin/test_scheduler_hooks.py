"""Scheduler hooks on fake engine objects: accounting, one record per request, counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from fake_tree import FakeTree

from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.scheduling.policies.attained import Plas
from autellix_server.sglang_plugin.driver import PlannerDriver
from autellix_server.sglang_plugin.loads import LoadHooks
from autellix_server.sglang_plugin.records import CallTag
from autellix_server.sglang_plugin.requests import call_of, state_of
from autellix_server.sglang_plugin.scheduler import RECORD_KEY, SchedulerHooks
from autellix_server.sglang_plugin.swap import SwapHooks


class Clock:
    """Microseconds that only tests move."""

    now_us = 1_000_000

    def read(self) -> int:
        """The time."""
        return self.now_us


@dataclass(eq=False)
class FakeReq:
    """The attributes of SGLang's `Req` that the hooks read."""

    name: str
    done: bool = False
    retraction_count: int = 0
    is_retracted: bool = False
    cached_tokens: int = 3
    loaded_tokens: int = 0
    origin_input_ids: list[int] = field(default_factory=lambda: [1] * 10)
    output_ids: list[int] = field(default_factory=lambda: [2] * 4)

    def finished(self) -> bool:
        """Whether the engine is done with it."""
        return self.done

    def materialized_host_hit_len(self) -> int:
        """Tokens that were loaded for it when it was admitted last."""
        return self.loaded_tokens


class BaseStreamer:
    """The engine's streamer class, as far as the hook extends it."""

    def build_additional_customized_info(self, reqs: list[Any]) -> dict[str, list[Any]]:
        """Nothing of the engine's own."""
        return {}


def make_hooks(clock: Clock) -> SchedulerHooks:
    """Hooks that keep accounts only; the tag is what was sent."""
    return SchedulerHooks(lambda hints: hints, clock.read)


def create(hooks: SchedulerHooks, name: str, base_s: float | None) -> FakeReq:
    """A request whose program had attained `base_s`, or one without a program."""
    tag = None if base_s is None else CallTag(f"program-{name}", "0.0", round(base_s * 1e6))
    req: FakeReq = hooks.create_request(lambda *_: FakeReq(name), None, SimpleNamespace(kv_hints=tag))
    return req


def batch(clock: Clock, reqs: list[FakeReq], prefilled: list[int] | None = None) -> Any:
    """A batch launched now."""
    mode = SimpleNamespace(is_extend=lambda: prefilled is not None)
    starts = None if prefilled is None else [0] * len(prefilled)
    return SimpleNamespace(
        reqs=reqs, forward_mode=mode, prefix_lens=starts, extend_lens=prefilled, launch_ts=clock.now_us / 1e6
    )


def test_record_is_sent_once_and_adds_up() -> None:
    """The step under way is booked before the record leaves, and a second look finds nothing."""
    clock = Clock()
    hooks = make_hooks(clock)
    streamer = hooks.output_streamer_class(lambda _: BaseStreamer, None)()
    req = create(hooks, "a", 2.5)
    sent: list[dict[str, list[Any]]] = []

    def run(prefilled: list[int] | None, length_us: int) -> None:
        step = batch(clock, [req], prefilled)
        clock.now_us += length_us
        hooks.process_result(lambda *_: sent.append(streamer.build_additional_customized_info([req])), None, step, None)

    clock.now_us += 500
    run([10], 100)
    run(None, 40)
    req.done = True
    run(None, 40)
    run(None, 40)
    assert [info[RECORD_KEY][0] for info in sent[:2]] == [[], []]
    assert sent[3] == {RECORD_KEY: [[]]}
    (record,) = sent[2][RECORD_KEY][0]
    assert record["program"] == "program-a"
    assert record["queued_us"] == {"admission": 500}
    assert (record["prefill_us"], record["decode_us"]) == (100, 80)
    assert record["finished_us"] - record["arrived_us"] == 680
    assert (record["prompt_tokens"], record["cached_tokens"], record["output_tokens"]) == (10, 3, 4)
    assert record["level"] == (0, 0)


def test_idle_time_between_steps_belongs_to_no_step() -> None:
    """A step starts at its launch when the engine was idle before, at the previous end when steps overlap."""
    clock = Clock()
    hooks = make_hooks(clock)
    first = batch(clock, [])
    clock.now_us += 100
    hooks.process_result(lambda *_: None, None, first, None)
    clock.now_us += 5_000
    req = create(hooks, "a", 0.0)
    step = batch(clock, [req], [10])
    overlapped = batch(clock, [req])
    clock.now_us += 100
    hooks.process_result(lambda *_: None, None, step, None)
    clock.now_us += 30
    hooks.process_result(lambda *_: None, None, overlapped, None)
    req.done = True
    (record,) = hooks.take_record(req)
    assert (record["prefill_us"], record["decode_us"], record["queued_us"]) == (100, 30, {})


def test_driver_is_charged_for_every_step_and_the_record_tells_the_levels() -> None:
    """A call that runs for 2.5 s falls from its first level to the second; what is finished is counted."""
    clock = Clock()
    driver = PlannerDriver(Plas(geometric_levels()), PlannerSettings())
    hooks = SchedulerHooks(lambda hints: hints, clock.read, driver)
    req = create(hooks, "a", 0.0)
    call = call_of(req)
    assert call is not None
    driver.observe([], [call], [], step=1, now=1.0)
    step = batch(clock, [req], [10])
    clock.now_us += 1_500_000
    hooks.process_result(lambda *_: None, None, step, None)
    req.done, req.retraction_count = True, 1
    (record,) = hooks.take_record(req)
    assert (call.service_s, record["level"]) == (1.5, (0, 1))
    shown = hooks.internal_state(SimpleNamespace(internal_state={}))
    assert shown.internal_state[RECORD_KEY] == {
        "finished": 1,
        "queued_us": {},
        "recomputed_tokens": 0,
        "plans": 0,
        "preemptions": 0,
        "in_vain": 0,
        "retractions": 0,
        "held_programs": 0,
        "held_tokens": 0,
        "bounds": {
            "first_bound_s": 1.0,
            "bounds_s": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
            "median_service_s": None,
            "calibrated": False,
        },
    }


def test_record_and_internal_state_tell_what_was_swapped() -> None:
    """Of the call, what was loaded back for it; of the engine, what its host memory holds and what moved."""
    clock = Clock()
    swap = SwapHooks(lambda *_: None, lambda *_: None)
    swap.init_hicache(lambda *_: None, FakeTree(host_tokens=100))
    swap.load(lambda *_: [0] * 60, "controller", "indices")
    hooks = SchedulerHooks(lambda hints: hints, clock.read, None, swap)
    req = create(hooks, "a", 0.0)
    state = state_of(req)
    assert state is not None
    state.meter.swapped_tokens = 60
    req.done = True
    (record,) = hooks.take_record(req)
    assert record["swapped_tokens"] == 60
    shown = hooks.internal_state(SimpleNamespace(internal_state={})).internal_state[RECORD_KEY]
    assert {name: shown[name] for name in shown if name.startswith(("host_", "swapped_"))} == {
        "host_locks": 0,
        "host_locked_tokens": 0,
        "host_tokens": 100,
        "host_locks_refused": 0,
        "swapped_out_tokens": 0,
        "swapped_in_tokens": 60,
    }


@pytest.mark.parametrize(("loaded", "tokens"), [(0, 10), (5, 0)])
def test_loads_are_told_what_steps_compute(loaded: int, tokens: int) -> None:
    """How many tokens of prompts in what time; none of a step that waited for KV to be loaded, or decoded."""
    clock = Clock()
    told: list[tuple[int, float]] = []
    loads = LoadHooks(0.0, lambda _: None, lambda _, numbers: numbers)
    loads.prefilled = lambda *step: told.append(step)  # type: ignore[method-assign]
    hooks = SchedulerHooks(lambda hints: hints, clock.read, loads=loads)
    req = create(hooks, "a", 0.0)
    req.loaded_tokens = loaded
    for prefilled in ([10], None):
        step = batch(clock, [req], prefilled)
        clock.now_us += 2_000
        hooks.process_result(lambda *_: None, None, step, None)
    assert told == [(tokens, 0.002), (0, 0.002)]
