"""Our state of one engine request, attached to SGLang's `Req` as attribute ``autellix``. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.scheduling.call import Key
from autellix_server.sglang_plugin.driver import EngineCall
from autellix_server.sglang_plugin.meter import RequestMeter
from autellix_server.sglang_plugin.records import CallTag

_US_PER_S = 1_000_000
_FIRST: Key = (-1, 0.0, 0)


@dataclass(eq=False, slots=True)
class RequestState:
    """What is known of one engine request.

    Attributes:
        tag: who it belongs to.
        call: what the planner sees of it.
        meter: account of its time.
        reported: its record has been sent.
    """

    tag: CallTag
    call: EngineCall
    meter: RequestMeter
    reported: bool = False


def open_state(tag: CallTag, prompt_tokens: int, number: int, now_us: int, planner_us: int) -> RequestState:
    """Return the state of a request that arrives now.

    Args:
        tag: who it belongs to.
        prompt_tokens: length of its prompt.
        number: requests that arrived before.
        now_us: now, by the clock that its time is measured with.
        planner_us: now, as the planner is told: see `clock.PlannerClock`.
    """
    call = EngineCall(
        context=CallContext(ProgramId(tag.program), "", 0, CallId(tag.call)),
        arrived_s=planner_us / _US_PER_S,
        prompt_tokens=prompt_tokens,
        base_service_s=tag.base_service_us / _US_PER_S,
        base_wait_s=tag.base_wait_us / _US_PER_S,
        program_class=tag.program_class,
        tenant=tag.tenant,
        single_call=tag.single_call,
        number=number,
    )
    return RequestState(tag, call, RequestMeter(now_us, now_us))


def state_of(req: Any) -> RequestState | None:
    """Return our state of a request, `None` for those that did not come through us."""
    state: RequestState | None = getattr(req, "autellix", None)
    return state


def call_of(req: Any) -> EngineCall | None:
    """Return what the planner sees of a request, `None` for those that did not come through us."""
    state = state_of(req)
    return None if state is None else state.call


def calls_of(reqs: Iterable[Any]) -> dict[EngineCall, Any]:
    """Return the calls of those requests that came through us, in order of arrival, each with its request.

    The order of a set is that of addresses, which differs between the ranks of one engine.
    """
    seen = [(call, req) for req in reqs if (call := call_of(req)) is not None]
    return dict(sorted(seen, key=lambda pair: pair[0].number))


def place(req: Any) -> Key:
    """Return the key by which the engine's queue is sorted.

    Requests that did not come through us, such as the engine's own health checks, go first: they are short and few. A
    call that the planner does not know yet goes last, until the next pass.
    """
    state = getattr(req, "autellix", None)
    return _FIRST if state is None else state.call.key
