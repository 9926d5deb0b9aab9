"""Entry point `sglang.srt.plugins`: registers the hooks, in each process those that belong there.

With ``AUTELLIX_POLICY`` unset or ``off`` it registers nothing and the engine is stock SGLang.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.marker import code_version
from autellix_server.sglang_plugin.guard import check_engine, refuse
from autellix_server.sglang_plugin.settings import PluginSettings, read_settings
from autellix_server.sglang_plugin.targets import http_relied_on, http_targets, relied_on, scheduler_targets

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
    targets = (*scheduler_targets(planned=settings.planned), *relied_on(planned=settings.planned))
    if multiprocessing.current_process().name == "MainProcess":
        check_engine((*targets, *http_targets(), *http_relied_on()))
        from autellix_server.sglang_plugin import in_http

        in_http.register(settings, marker(settings))
    elif _SCHEDULER in sys.modules:
        check_engine(targets)
        from autellix_server.sglang_plugin import in_scheduler

        in_scheduler.register(settings, marker(settings))


def marker(settings: PluginSettings) -> dict[str, Any]:
    """Return what an engine with all hooks in place reports under ``autellix`` in ``/server_info``."""
    return {
        "version": code_version(),
        "policy": settings.policy.name,
        "name": settings.engine_name,
        "hooks": len(scheduler_targets(planned=settings.planned)),
    }
