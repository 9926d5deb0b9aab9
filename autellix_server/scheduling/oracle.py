"""The planner's decision as a plain function of all calls: slow, short, and the measure of the planner in tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autellix_server.scheduling.call import Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.planner import Plan


def oracle_plan(calls: Iterable[Call], capacity: Capacity) -> Plan:
    """Return what `Planner.plan` decides, without working sets, once promotions are done. Changes nothing.

    As many waiting calls as possible enter, in order; what runs makes room from the worst up. That stops at the first
    call that would have to displace a better one, that does not fit even so, or that would cost a running call its KV.

    Args:
        calls: every call, at its level, waiting and running.
        capacity: what the engine can hold.
    """
    in_order = sorted(calls, key=lambda call: call.key)
    waiting = [call for call in in_order if not call.running]
    running = [call for call in in_order if call.running]
    forced = _leaving(running, (), capacity)
    plan = Plan((), forced)
    for count in range(1, len(waiting) + 1):
        entering = tuple(waiting[:count])
        leaving = _leaving(running, entering, capacity)
        lost = sum(call.kv_tokens for call in leaving) > capacity.host_tokens and leaving != forced
        displaces_better = any(call.key < entering[-1].key for call in leaving)
        if not _fits(entering, capacity) or displaces_better or lost:
            break
        plan = Plan(entering, leaving)
    return plan


def _fits(calls: Sequence[Call], capacity: Capacity) -> bool:
    return len(calls) <= capacity.slots and sum(call.kv_tokens for call in calls) <= capacity.kv_tokens


def _leaving(running: Sequence[Call], entering: Sequence[Call], capacity: Capacity) -> tuple[Call, ...]:
    """Return the running calls, worst first, that must leave for the rest to fit beside the entering ones."""
    staying = len(running)
    while staying and not _fits((*running[:staying], *entering), capacity):
        staying -= 1
    return tuple(reversed(running[staying:]))
