"""Hooks in SGLang's scheduler process that keep the account of every request, and send one record at its end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from autellix_server.scheduling.bounds import BoundsInUse
from autellix_server.sglang_plugin.clock import PlannerClock
from autellix_server.sglang_plugin.driver import EngineCall, PlannerDriver
from autellix_server.sglang_plugin.exposure import Counted, Exposure
from autellix_server.sglang_plugin.loads import LoadHooks
from autellix_server.sglang_plugin.records import CallTag, RequestRecord
from autellix_server.sglang_plugin.requests import call_of, open_state, state_of
from autellix_server.sglang_plugin.swap import SwapHooks

RECORD_KEY = "autellix"
"""Key of the record in the engine's per-request output, and of the counts in its internal state."""

_US_PER_S = 1_000_000
_NOTHING = range(0)


@dataclass(eq=False, slots=True)
class _Step:
    """One batch whose result is being processed; `settled` once its time is booked to its members."""

    batch: Any
    settled: bool = False


@dataclass(frozen=True, slots=True)
class _Charge:
    """What is charged for one step, the same on every rank.

    Attributes:
        calls: those that took part.
        prefilled_tokens: computed as prompts, if the step waited for no KV to be loaded; else 0.
    """

    calls: Sequence[EngineCall]
    prefilled_tokens: int


class SchedulerHooks:
    """The hooks, and what they keep between calls. One instance per scheduler process, single-threaded.

    Args:
        read_tag: finds the call's tag in what the HTTP process sent, `None` for the engine's own requests.
        now_us: monotonic clock in whole microseconds.
        driver: charged for what requests are served; `None` where the engine goes by its own order.
        swap: asked for its counts; `None` where the engine goes by its own order.
        exposure: shows what is counted; `None`: it is shown in the internal state only.
        loads: told what steps compute, and asked for its counts; `None` where the engine goes by its own order.

    Attributes:
        clock: what the driver is told of time.
    """

    def __init__(
        self,
        read_tag: Callable[[Any], CallTag | None],
        now_us: Callable[[], int],
        driver: PlannerDriver | None = None,
        swap: SwapHooks | None = None,
        exposure: Exposure | None = None,
        loads: LoadHooks | None = None,
    ) -> None:
        self._read_tag = read_tag
        self._now_us = now_us
        self._driver = driver
        self._numbers = count()
        self._exposure = exposure
        self.clock = PlannerClock(now_us, self._charge)
        self._swap = swap
        self._loads = loads
        self._finished = 0
        self._recomputed_tokens = 0
        self._queued_us: Counter[str] = Counter()
        self._last_step_end_us = 0
        self._step: _Step | None = None

    def create_request(self, original: Callable[..., Any], scheduler: Any, received: Any, *args: Any, **kw: Any) -> Any:
        """AROUND `Scheduler._create_generation_req`: open the request's account."""
        req = original(scheduler, received, *args, **kw)
        tag = self._read_tag(received.kv_hints)
        if tag is not None:
            now_us = self._now_us()
            planner_us = self.clock.now_us()
            req.autellix = open_state(tag, len(req.origin_input_ids), next(self._numbers), now_us, planner_us)
            if self._driver is not None:
                self._driver.ended(tag.ended, planner_us / _US_PER_S)
        return req

    def process_result(self, original: Callable[..., Any], scheduler: Any, batch: Any, result: Any) -> Any:
        """AROUND `Scheduler.process_batch_result`: book the step before its output is sent."""
        self._step = _Step(batch)
        try:
            return original(scheduler, batch, result)
        finally:
            self._settle()
            self._step = None
            self._show(scheduler)

    def idle(self, original: Callable[..., Any], scheduler: Any) -> Any:
        """AROUND `Scheduler.on_idle`: show what the pass after the last step changed, and what time lets go of."""
        if self._exposure is not None and self._exposure.due:
            self._show(scheduler)
        return original(scheduler)

    def output_streamer_class(self, original: Callable[..., Any], scheduler: Any) -> Any:
        """AROUND `Scheduler.get_output_streamer_class`: let finished requests carry their record."""
        hooks = self

        class RecordingStreamer(original(scheduler)):  # type: ignore[misc]
            has_additional_customized_info = True

            def build_additional_customized_info(self, reqs: list[Any]) -> dict[str, list[Any]]:
                inherited: dict[str, list[Any]] = super().build_additional_customized_info(reqs)
                return inherited | {RECORD_KEY: [hooks.take_record(req) for req in reqs]}

        return RecordingStreamer

    def take_record(self, req: Any) -> list[dict[str, Any]]:
        """Return the record of a finished request in a list, once; else an empty list."""
        self._settle()
        state = state_of(req)
        if state is None or state.reported or not req.finished():
            return []
        state.reported = True
        now_us = self._now_us()
        state.meter.finish(now_us)
        self._finished += 1
        self._recomputed_tokens += state.meter.recomputed_tokens
        self._queued_us.update(state.meter.queued_us)
        record = RequestRecord(
            program=state.tag.program,
            call=state.tag.call,
            arrived_us=state.meter.arrived_us,
            finished_us=now_us,
            queued_us=state.meter.queued_us,
            prefill_us=state.meter.prefill_us,
            decode_us=state.meter.decode_us,
            prompt_tokens=len(req.origin_input_ids),
            cached_tokens=req.cached_tokens,
            output_tokens=len(req.output_ids),
            recomputed_tokens=state.meter.recomputed_tokens,
            swapped_tokens=state.meter.swapped_tokens,
            preemptions=state.meter.retractions,
            level=(state.call.start_level, state.call.level) if self._driver is not None else (0, 0),
        )
        return [record.to_wire()]

    def internal_state(self, output: Any, *_: Any) -> Any:
        """AFTER `Scheduler.get_internal_state`: report for ``/server_info`` what was counted.

        Of requests: how many finished, what these waited by cause, and the tokens they computed twice. Of the planner,
        where it decides: see `PlannerDriver.counted`, and the bounds of its levels; of KV in host memory: see
        `SwapHooks.to_json`, and of copies and loads `LoadHooks.state`.
        """
        bounds = self._bounds()
        shown_bounds = {} if bounds is None else {"bounds": bounds.to_json()}
        shown_loads = {} if self._loads is None else self._loads.state()
        output.internal_state[RECORD_KEY] = {**self._counted(), **shown_bounds, **shown_loads}
        return output

    def _show(self, scheduler: Any) -> None:
        if self._exposure is not None:
            self._exposure.show(scheduler, self._counted, self._bounds())

    def _counted(self) -> Counted:
        return {
            "finished": self._finished,
            "queued_us": dict(self._queued_us),
            "recomputed_tokens": self._recomputed_tokens,
            **(self._driver.counted() if self._driver is not None else {}),
            **(self._swap.to_json() if self._swap is not None else {}),
            **(self._loads.to_json() if self._loads is not None else {}),
        }

    def _bounds(self) -> BoundsInUse | None:
        return None if self._driver is None else self._driver.planner.bounds

    def _settle(self) -> None:
        """Book the current step to every request in it, once.

        With overlap scheduling the next batch is launched before this one's result is there, so a step begins at the
        later of its launch and the previous step's end. Time in which nothing ran belongs to no step.
        """
        step = self._step
        if step is None or step.settled:
            return
        step.settled = True
        batch = step.batch
        end_us = self._now_us()
        start_us = max(self._last_step_end_us, int(batch.launch_ts * _US_PER_S))
        self._last_step_end_us = end_us
        # Whoever is gone is not charged, which the driver knows: what was reported, rank 0 alone does.
        prefilled = _prefilled(batch) if batch.forward_mode.is_extend() else [_NOTHING] * len(batch.reqs)
        calls = [call for call in map(call_of, batch.reqs) if call is not None]
        self.clock.step_ended(_Charge(calls, _computed_alone(batch.reqs, prefilled)), end_us - start_us)
        for req, positions in zip(batch.reqs, prefilled, strict=True):
            state = state_of(req)
            if state is not None and not state.reported:
                state.meter.step(
                    start_us,
                    end_us,
                    prefilled=positions,
                    retractions=req.retraction_count,
                    left=req.is_retracted,
                )

    def _charge(self, step: _Charge, step_us: int) -> None:
        if self._loads is not None:
            self._loads.prefilled(step.prefilled_tokens, step_us / _US_PER_S)
        if self._driver is not None:
            for call in step.calls:
                self._driver.credit(call, step_us / _US_PER_S, self.clock.now_us() / _US_PER_S)


def _prefilled(batch: Any) -> list[range]:
    """Return for each request of a prefill batch the positions of the tokens that it computes."""
    return [range(start, start + length) for start, length in zip(batch.prefix_lens, batch.extend_lens, strict=True)]


def _computed_alone(reqs: Sequence[Any], prefilled: Sequence[range]) -> int:
    """Return the tokens that a step computed as prompts; 0 if it waited for KV of any of them to be loaded."""
    tokens = sum(map(len, prefilled))
    return 0 if tokens and any(req.materialized_host_hit_len() for req in reqs) else tokens


def monotonic_us() -> int:
    """Return the monotonic clock in whole microseconds; SGLang stamps launches with the same clock."""
    return time.monotonic_ns() // 1_000
