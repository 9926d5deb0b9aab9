"""What the plugin refuses of an engine that somebody else starts."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest

from autellix_server.sglang_plugin.flags import refuse_flags
from autellix_server.sglang_plugin.settings import PluginSettings, read_settings


@dataclass
class ServerArgs:
    """SGLang's arguments with their defaults, as far as the plugin looks at them by name."""

    model_path: str = "owner/tiny"
    schedule_policy: str = "fcfs"
    enable_hierarchical_cache: bool = False
    hicache_write_policy: str = "write_through"
    hicache_host_memory_mode: str = "cache"

    @property
    def __struct_fields__(self) -> tuple[str, ...]:
        return tuple(field.name for field in fields(self))


def settings(policy: str) -> PluginSettings:
    """Settings of the plugin under a policy."""
    made = read_settings({"AUTELLIX_POLICY": policy})
    assert made is not None
    return made


def test_host_pool_has_to_be_written_back_under_the_planner() -> None:
    """SGLang's default is another: `autellix serve` sets what is needed, others have to."""
    with pytest.raises(SystemExit, match="policy plas needs --hicache-write-policy write_back, not write_through"):
        refuse_flags(settings("plas"), ServerArgs(enable_hierarchical_cache=True))
    refuse_flags(settings("plas"), ServerArgs(enable_hierarchical_cache=True, hicache_write_policy="write_back"))
    refuse_flags(settings("plas"), ServerArgs())
    refuse_flags(settings("fcfs"), ServerArgs(enable_hierarchical_cache=True))


def test_flags_are_refused_whoever_gave_them() -> None:
    """With the reason that `autellix serve` gives."""
    with pytest.raises(SystemExit, match="refused flag --hicache-host-memory-mode: host memory has to keep"):
        refuse_flags(settings("plas"), ServerArgs(hicache_host_memory_mode="buffer_only"))
    with pytest.raises(SystemExit, match="policy lpm needs --schedule-policy lpm, not fcfs"):
        refuse_flags(settings("lpm"), ServerArgs())
