"""What the plugin hooks in the HTTP process; importing it needs SGLang."""

from __future__ import annotations

from functools import partial
from typing import Any

from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from autellix_server.engine.marker import MARKER_KEY
from autellix_server.sglang_plugin import envelope
from autellix_server.sglang_plugin.flags import refuse_flags
from autellix_server.sglang_plugin.guard import check_markers, missing, refuse
from autellix_server.sglang_plugin.heap import give_back
from autellix_server.sglang_plugin.http import BillMiddleware, HttpHooks
from autellix_server.sglang_plugin.platform import on_cpu
from autellix_server.sglang_plugin.scheduler import monotonic_us
from autellix_server.sglang_plugin.settings import PluginSettings
from autellix_server.sglang_plugin.targets import (
    GENERATE,
    LAUNCH_DETOKENIZER,
    RESOLVE_ARGS,
    RUN_HTTP,
    WAIT_RESPONSE,
    http_targets,
)


def register(settings: PluginSettings, marker: dict[str, Any]) -> None:
    """Register every hook of the HTTP process.

    Args:
        settings: what the engine was told.
        marker: what every scheduler process has to report.
    """
    hooks = HttpHooks(settings, envelope.attach, monotonic_us)

    def before_serving(*args: Any, **kwargs: Any) -> None:
        from sglang.srt.entrypoints.http_server import app

        if absent := missing(http_targets()):
            refuse(f"hooks are not in place in the HTTP process: {', '.join(absent)}; see the log above")
        infos = dict(zip(RUN_HTTP.parameters, args, strict=False)).get("scheduler_infos") or kwargs["scheduler_infos"]
        check_markers(infos, marker)
        infos[0][MARKER_KEY]["http"] = True
        app.add_middleware(BillMiddleware, hooks=hooks)
        if on_cpu():
            give_back()

    HookRegistry.register(GENERATE.path, hooks.generate, HookType.AROUND)
    HookRegistry.register(WAIT_RESPONSE.path, hooks.wait_response, HookType.AROUND)
    HookRegistry.register(RESOLVE_ARGS.path, partial(refuse_flags, settings), HookType.BEFORE)
    HookRegistry.register(RUN_HTTP.path, before_serving, HookType.BEFORE)
    if on_cpu():
        from autellix_server.sglang_plugin import detokenizer

        HookRegistry.register(LAUNCH_DETOKENIZER.path, detokenizer.launch, HookType.AROUND)
