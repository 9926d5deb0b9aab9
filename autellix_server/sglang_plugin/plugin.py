"""Entry point `sglang.srt.plugins`: registers the hooks, in each process those that belong there.

With ``AUTELLIX_POLICY`` unset or ``off`` it registers nothing and the engine is stock SGLang.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.command import HOST_WRITE_POLICY, schedule_policy
from autellix_server.engine.marker import MARKER_KEY, code_version
from autellix_server.engine.refusals import refused, refused_environment
from autellix_server.sglang_plugin.guard import Target, check_engine, check_markers, refuse
from autellix_server.sglang_plugin.platform import on_cpu
from autellix_server.sglang_plugin.settings import PluginSettings, read_settings
from autellix_server.sglang_plugin.targets import (
    ACCOUNT_TARGETS,
    CALC_PRIORITY,
    CPU_RELIED_ON,
    CPU_TARGETS,
    CREATE_REQUEST,
    DROP_SUBTREE,
    GENERATE,
    HOST_LOAD,
    HOST_POOL_CLASS,
    HOST_WRITE,
    HTTP_TARGETS,
    INIT_HICACHE,
    INIT_INFO,
    INTERNAL_STATE,
    NEW_PREFILL,
    PLANNER_TARGETS,
    PROCESS_RESULT,
    RELEASE_REQ,
    RELIED_ON,
    RESOLVE_ARGS,
    RETRACTION_ORDER,
    RUN_HTTP,
    STREAMER_CLASS,
    TREE_RESET,
    WAIT_RESPONSE,
)

if TYPE_CHECKING:
    from autellix_server.sglang_plugin.driver import PlannerDriver
    from autellix_server.sglang_plugin.swap import SwapHooks

_SCHEDULER = "sglang.srt.managers.scheduler"


def register() -> None:
    """Register the hooks of this process; called by SGLang in each process it starts.

    Raises:
        SystemExit: a setting is wrong, or this is not the SGLang the hooks were written for.
    """
    try:
        settings = read_settings(os.environ)
    except ConfigurationError as error:
        refuse(str(error))
    if settings is None:
        return
    relied_on = (*(RELIED_ON if settings.planned else ()), *(CPU_RELIED_ON if on_cpu() else ()))
    if multiprocessing.current_process().name == "MainProcess":
        check_engine((*scheduler_targets(settings), *relied_on, *HTTP_TARGETS))
        _register_http(settings)
    elif _SCHEDULER in sys.modules:
        check_engine((*scheduler_targets(settings), *relied_on))
        _register_scheduler(settings)


def scheduler_targets(settings: PluginSettings) -> tuple[Target, ...]:
    """Return what is hooked in the scheduler process."""
    return (
        *ACCOUNT_TARGETS,
        *(PLANNER_TARGETS if settings.planned else ()),
        *(CPU_TARGETS if on_cpu() else ()),
    )


def marker(settings: PluginSettings) -> Mapping[str, Any]:
    """Return what an engine with all hooks in place reports under ``autellix`` in ``/server_info``."""
    return {
        "version": code_version(),
        "policy": settings.policy.name,
        "name": settings.engine_name,
        "hooks": len(scheduler_targets(settings)),
    }


def _missing(targets: Iterable[Target]) -> list[str]:
    """Return the targets whose hook SGLang failed to apply, which it merely logs."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    return [target.path for target in targets if target.path not in HookRegistry._patched]  # noqa: SLF001


def _register_scheduler(settings: PluginSettings) -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from autellix_server.sglang_plugin import envelope
    from autellix_server.sglang_plugin.scheduler import SchedulerHooks, monotonic_us

    driver, swap = _planner(settings) if settings.planned else (None, None)
    hooks = SchedulerHooks(envelope.read, monotonic_us, driver, swap)

    def add_marker(info: dict[str, Any], scheduler: Any) -> dict[str, Any]:
        targets = scheduler_targets(settings)
        return info | {MARKER_KEY: {**marker(settings), "hooks": len(targets) - len(_missing(targets))}}

    around: dict[Target, Callable[..., Any]] = {
        CREATE_REQUEST: hooks.create_request,
        PROCESS_RESULT: hooks.process_result,
        STREAMER_CLASS: hooks.output_streamer_class,
        **(_planner_hooks(driver, swap) if driver is not None and swap is not None else {}),
        **(_cpu_hooks() if on_cpu() else {}),
    }
    for target, hook in around.items():
        HookRegistry.register(target.path, hook, HookType.AROUND)
    HookRegistry.register(INIT_INFO.path, add_marker, HookType.AFTER)
    HookRegistry.register(INTERNAL_STATE.path, hooks.internal_state, HookType.AFTER)


def _planner(settings: PluginSettings) -> tuple[PlannerDriver, SwapHooks]:
    from sglang.srt.mem_cache.common import release_kv_cache

    from autellix_server.sglang_plugin.driver import PlannerDriver
    from autellix_server.sglang_plugin.swap import SwapHooks

    return PlannerDriver(settings.policy, settings.planner), SwapHooks(release_kv_cache)


def _planner_hooks(driver: PlannerDriver, swap: SwapHooks) -> dict[Target, Callable[..., Any]]:
    from sglang.srt.managers.schedule_policy import CLIP_MAX_NEW_TOKENS

    from autellix_server.sglang_plugin.preemption import PreemptionHooks
    from autellix_server.sglang_plugin.room import RoomMeter
    from autellix_server.sglang_plugin.scheduler import monotonic_us

    hooks = PreemptionHooks(driver, RoomMeter(CLIP_MAX_NEW_TOKENS), swap.release, monotonic_us)
    return {
        CALC_PRIORITY: hooks.order_queue,
        NEW_PREFILL: partial(swap.new_batch, hooks.new_batch),
        RETRACTION_ORDER: hooks.retraction_order,
        RELEASE_REQ: hooks.release_retracted,
        INIT_HICACHE: swap.init_hicache,
        TREE_RESET: swap.reset,
        DROP_SUBTREE: swap.drop_subtree,
        HOST_WRITE: swap.write,
        HOST_LOAD: swap.load,
    }


def _cpu_hooks() -> dict[Target, Callable[..., Any]]:
    from autellix_server.sglang_plugin.host_pool import host_pool_class

    return {HOST_POOL_CLASS: host_pool_class}


def _register_http(settings: PluginSettings) -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from autellix_server.sglang_plugin import envelope
    from autellix_server.sglang_plugin.http import BillMiddleware, HttpHooks
    from autellix_server.sglang_plugin.scheduler import monotonic_us

    hooks = HttpHooks(settings, envelope.attach, monotonic_us)

    def before_serving(*args: Any, **kwargs: Any) -> None:
        from sglang.srt.entrypoints.http_server import app

        if missing := _missing(HTTP_TARGETS):
            refuse(f"hooks are not in place in the HTTP process: {', '.join(missing)}; see the log above")
        infos = dict(zip(RUN_HTTP.parameters, args, strict=False)).get("scheduler_infos") or kwargs["scheduler_infos"]
        check_markers(infos, marker(settings))
        infos[0][MARKER_KEY]["http"] = True
        app.add_middleware(BillMiddleware, hooks=hooks)

    HookRegistry.register(GENERATE.path, hooks.generate, HookType.AROUND)
    HookRegistry.register(WAIT_RESPONSE.path, hooks.wait_response, HookType.AROUND)
    HookRegistry.register(RESOLVE_ARGS.path, partial(_refuse_flags, settings), HookType.BEFORE)
    HookRegistry.register(RUN_HTTP.path, before_serving, HookType.BEFORE)


def _refuse_flags(settings: PluginSettings, server_args: Any) -> None:
    """BEFORE `ServerArgs.resolve_once`: refuse what was asked for and cannot work, wherever it was asked."""
    defaults = type(server_args)(model_path=server_args.model_path)
    values = ((name, getattr(server_args, name)) for name in server_args.__struct_fields__)
    asked = [f"--{name.replace('_', '-')}={value}" for name, value in values if value != getattr(defaults, name)]
    reason = refused(asked, planned=settings.planned) or refused_environment(os.environ)
    if reason is not None:
        refuse(reason)
    order = schedule_policy(settings.policy.name)
    if server_args.schedule_policy != order:
        refuse(f"policy {settings.policy.name} needs --schedule-policy {order}, not {server_args.schedule_policy}")
    write_policy = server_args.hicache_write_policy
    if settings.planned and server_args.enable_hierarchical_cache and write_policy != HOST_WRITE_POLICY:
        refuse(f"policy {settings.policy.name} needs --hicache-write-policy {HOST_WRITE_POLICY}, not {write_policy}")
