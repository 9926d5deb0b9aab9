"""What the plugin hooks in a scheduler process; importing it needs SGLang's scheduler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sglang.srt.managers.schedule_policy import CLIP_MAX_NEW_TOKENS
from sglang.srt.mem_cache.common import match_kv_cache, release_kv_cache
from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from autellix_server.engine.marker import MARKER_KEY
from autellix_server.sglang_plugin import envelope, penalizers
from autellix_server.sglang_plugin.clock import PlannerClock
from autellix_server.sglang_plugin.cpu_memory import prepare_next
from autellix_server.sglang_plugin.driver import PlannerDriver
from autellix_server.sglang_plugin.exposure import Exposure
from autellix_server.sglang_plugin.guard import Target, missing
from autellix_server.sglang_plugin.heap import give_back
from autellix_server.sglang_plugin.host_pool import host_pool_class, pool_of, smallest
from autellix_server.sglang_plugin.kept import KeptKv
from autellix_server.sglang_plugin.loads import LoadHooks
from autellix_server.sglang_plugin.penalties import PenaltyHooks
from autellix_server.sglang_plugin.platform import on_cpu
from autellix_server.sglang_plugin.preemption import PreemptionHooks
from autellix_server.sglang_plugin.room import RoomMeter
from autellix_server.sglang_plugin.scheduler import SchedulerHooks, monotonic_us
from autellix_server.sglang_plugin.settings import PluginSettings
from autellix_server.sglang_plugin.swap import SwapHooks
from autellix_server.sglang_plugin.targets import (
    BROADCAST,
    CALC_PRIORITY,
    CHECK_DECODE,
    COUNT_OUTPUT,
    CREATE_REQUEST,
    DROP_SUBTREE,
    HOST_LOAD,
    HOST_POOL_CLASS,
    HOST_WRITE,
    INIT_HICACHE,
    INIT_INFO,
    INTERNAL_STATE,
    NEW_PREFILL,
    ON_IDLE,
    PREPARE_PREFILL,
    PROCESS_RESULT,
    RELEASE_REQ,
    RETRACTION_ORDER,
    STREAMER_CLASS,
    TREE_RESET,
    scheduler_targets,
)

Hooks = tuple[tuple[Target, Callable[..., Any]], ...]


def register(settings: PluginSettings, marker: dict[str, Any]) -> None:
    """Register every hook of a scheduler process.

    Args:
        settings: what the engine was told.
        marker: reported when SGLang says that it is ready, with the number of hooks that are really in place.
    """
    targets = scheduler_targets(planned=settings.planned)
    driver = PlannerDriver(settings.policy, settings.planner) if settings.planned else None
    swap = SwapHooks(release_kv_cache, match_kv_cache) if settings.planned else None
    loads = LoadHooks(settings.swap_check, pool_of, smallest) if settings.planned else None
    exposure = Exposure(settings.engine_name, monotonic_us)
    hooks = SchedulerHooks(envelope.read, monotonic_us, driver, swap, exposure, loads)

    def add_marker(info: dict[str, Any], scheduler: Any) -> dict[str, Any]:
        if on_cpu():
            give_back()
        return info | {MARKER_KEY: {**marker, "hooks": len(targets) - len(missing(targets))}}

    around: Hooks = (
        (CREATE_REQUEST, hooks.create_request),
        (PROCESS_RESULT, hooks.process_result),
        (ON_IDLE, hooks.idle),
        (STREAMER_CLASS, hooks.output_streamer_class),
        *(_planner_hooks(driver, swap, hooks.clock) if driver is not None and swap is not None else ()),
        *(_load_hooks(loads) if loads is not None else ()),
        *(((HOST_POOL_CLASS, host_pool_class),) if HOST_POOL_CLASS in targets else ()),
        *(((ON_IDLE, prepare_next),) if on_cpu() else ()),
    )
    for target, hook in around:
        HookRegistry.register(target.path, hook, HookType.AROUND)
    HookRegistry.register(INIT_INFO.path, add_marker, HookType.AFTER)
    HookRegistry.register(INTERNAL_STATE.path, hooks.internal_state, HookType.AFTER)


def _planner_hooks(driver: PlannerDriver, swap: SwapHooks, clock: PlannerClock[Any]) -> Hooks:
    kept = KeptKv(match_kv_cache)
    preemption = PreemptionHooks(driver, RoomMeter(CLIP_MAX_NEW_TOKENS), kept, swap.release, clock.now_us)
    penalties = PenaltyHooks(penalizers.count, penalizers.replay)
    return (
        (CALC_PRIORITY, preemption.order_queue),
        (NEW_PREFILL, partial(swap.new_batch, preemption.new_batch)),
        (RETRACTION_ORDER, preemption.retraction_order),
        (RELEASE_REQ, preemption.release_retracted),
        (CHECK_DECODE, preemption.decode_fits),
        (COUNT_OUTPUT, penalties.count_output),
        (PREPARE_PREFILL, penalties.replay_output),
        (BROADCAST, clock.receive),
        (TREE_RESET, preemption.reset_tree),
        (TREE_RESET, swap.reset),
        (INIT_HICACHE, swap.init_hicache),
        (DROP_SUBTREE, swap.drop_subtree),
        (HOST_WRITE, swap.write),
        (HOST_LOAD, swap.load),
    )


def _load_hooks(loads: LoadHooks) -> Hooks:
    return ((INIT_HICACHE, loads.init_hicache), (HOST_LOAD, loads.load))
