"""SGLang's own flags, as the engine resolved them: which the plugin cannot work with."""

from __future__ import annotations

import os
from typing import Any

from autellix_server.engine.command import HOST_WRITE_POLICY, schedule_policy
from autellix_server.engine.refusals import refused, refused_environment
from autellix_server.sglang_plugin.guard import refuse
from autellix_server.sglang_plugin.settings import PluginSettings


def refuse_flags(settings: PluginSettings, server_args: Any) -> None:
    """BEFORE `ServerArgs.resolve_once`: refuse what was asked for and cannot work, wherever it was asked."""
    defaults = type(server_args)(model_path=server_args.model_path)
    values = ((name, getattr(server_args, name)) for name in server_args.__struct_fields__)
    asked = [f"--{name.replace('_', '-')}={value}" for name, value in values if value != getattr(defaults, name)]
    reason = refused(asked, planned=settings.planned) or refused_environment(os.environ, planned=settings.planned)
    if reason is not None:
        refuse(reason)
    order = schedule_policy(settings.policy.name)
    if server_args.schedule_policy != order:
        refuse(f"policy {settings.policy.name} needs --schedule-policy {order}, not {server_args.schedule_policy}")
    write_policy = server_args.hicache_write_policy
    if settings.planned and server_args.enable_hierarchical_cache and write_policy != HOST_WRITE_POLICY:
        refuse(f"policy {settings.policy.name} needs --hicache-write-policy {HOST_WRITE_POLICY}, not {write_policy}")
