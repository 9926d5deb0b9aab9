"""Entry point `sglang.srt.plugins`: registers the hooks, in each process those that belong there.

With ``AUTELLIX_POLICY`` unset or ``off`` it registers nothing and the engine is stock SGLang.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.marker import MARKER_KEY, code_version
from autellix_server.engine.refusals import refused, refused_environment
from autellix_server.sglang_plugin.guard import Target, check_engine, check_markers, refuse
from autellix_server.sglang_plugin.settings import PluginSettings, read_settings

_SCHEDULER = "sglang.srt.managers.scheduler"
_TOKENIZER = "sglang.srt.managers.tokenizer_manager.TokenizerManager"

CREATE_REQUEST = Target(f"{_SCHEDULER}.Scheduler._create_generation_req", ("self", "recv_req", "args", "kwargs"))
PROCESS_RESULT = Target(
    f"{_SCHEDULER}.Scheduler.process_batch_result", ("self", "batch", "result"), source_digest="726305f46a979a47"
)
STREAMER_CLASS = Target(f"{_SCHEDULER}.Scheduler.get_output_streamer_class", ("self",))
INIT_INFO = Target(f"{_SCHEDULER}.Scheduler.get_init_info", ("self",))
CALC_PRIORITY = Target(
    "sglang.srt.managers.schedule_policy.SchedulePolicy.calc_priority",
    ("self", "waiting_queue", "running_batch", "processed_tokens"),
)
GENERATE = Target(f"{_TOKENIZER}.generate_request", ("self", "obj", "request"))
WAIT_RESPONSE = Target(f"{_TOKENIZER}._wait_one_response", ("self", "obj", "request"))
RESOLVE_ARGS = Target("sglang.srt.server_args.ServerArgs.resolve_once", ("self",))
RUN_HTTP = Target(
    "sglang.srt.entrypoints.http_server._setup_and_run_http_server",
    (
        "server_args",
        "tokenizer_manager",
        "template_manager",
        "port_args",
        "scheduler_infos",
        "subprocess_watchdog",
        "execute_warmup_func",
        "launch_callback",
    ),
)
SCHEDULER_TARGETS = (CREATE_REQUEST, PROCESS_RESULT, STREAMER_CLASS, INIT_INFO, CALC_PRIORITY)
HTTP_TARGETS = (GENERATE, WAIT_RESPONSE, RESOLVE_ARGS, RUN_HTTP)


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
    if multiprocessing.current_process().name == "MainProcess":
        check_engine(SCHEDULER_TARGETS + HTTP_TARGETS)
        _register_http(settings)
    elif _SCHEDULER in sys.modules:
        check_engine(SCHEDULER_TARGETS)
        _register_scheduler(settings)


def marker(settings: PluginSettings) -> Mapping[str, Any]:
    """Return what an engine with all hooks in place reports under ``autellix`` in ``/server_info``."""
    return {
        "version": code_version(),
        "policy": settings.policy.name,
        "name": settings.engine_name,
        "hooks": len(SCHEDULER_TARGETS),
    }


def _missing(targets: Iterable[Target]) -> list[str]:
    """Return the targets whose hook SGLang failed to apply, which it merely logs."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    return [target.path for target in targets if target.path not in HookRegistry._patched]  # noqa: SLF001


def _register_scheduler(settings: PluginSettings) -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from autellix_server.sglang_plugin import envelope
    from autellix_server.sglang_plugin.scheduler import SchedulerHooks, monotonic_us

    hooks = SchedulerHooks(settings, envelope.read, monotonic_us)

    def add_marker(info: dict[str, Any], scheduler: Any) -> dict[str, Any]:
        applied = len(SCHEDULER_TARGETS) - len(_missing(SCHEDULER_TARGETS))
        return info | {MARKER_KEY: {**marker(settings), "hooks": applied}}

    around: dict[Target, Callable[..., Any]] = {
        CREATE_REQUEST: hooks.create_request,
        PROCESS_RESULT: hooks.process_result,
        STREAMER_CLASS: hooks.output_streamer_class,
        CALC_PRIORITY: hooks.order_queue,
    }
    for target, hook in around.items():
        HookRegistry.register(target.path, hook, HookType.AROUND)
    HookRegistry.register(INIT_INFO.path, add_marker, HookType.AFTER)


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
    HookRegistry.register(RESOLVE_ARGS.path, _refuse_flags, HookType.BEFORE)
    HookRegistry.register(RUN_HTTP.path, before_serving, HookType.BEFORE)


def _refuse_flags(server_args: Any) -> None:
    """BEFORE `ServerArgs.resolve_once`: refuse what was asked for and cannot work, wherever it was asked."""
    defaults = type(server_args)(model_path=server_args.model_path)
    values = ((name, getattr(server_args, name)) for name in server_args.__struct_fields__)
    asked = [f"--{name.replace('_', '-')}={value}" for name, value in values if value != getattr(defaults, name)]
    reason = refused(asked) or refused_environment(os.environ)
    if reason is not None:
        refuse(reason)
