"""What the engine process is told, through environment variables, since SGLang starts its own processes.

| variable | meaning |
|---|---|
| ``AUTELLIX_POLICY`` | policy name; unset or ``off``: no hook is registered, the engine is stock |
| ``AUTELLIX_ENGINE_NAME`` | name in bills and metrics; default ``engine`` |
| ``AUTELLIX_FIRST_BOUND_S`` | upper bound of the best level in seconds of attained service |
| ``AUTELLIX_SECRET`` | hexadecimal secret shared with the gateway, whose signed stamps are then believed |
| ``AUTELLIX_CPU`` | ``1`` activates the CPU platform (see `platform`) |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.command import ENGINE_POLICIES, POLICY_OFF
from autellix_server.scheduling.levels import DEFAULT_FIRST_BOUND_S, geometric_levels
from autellix_server.scheduling.policies import make_policy
from autellix_server.scheduling.policy import Policy
from autellix_server.stamp import read_secret


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Settings of the engine plugin.

    Attributes:
        policy: decides levels; shared by every process of the engine.
        engine_name: name in bills.
        secret: verifies the gateway's stamps; `None` when no gateway stands in front.
    """

    policy: Policy
    engine_name: str = "engine"
    secret: bytes | None = None


def read_settings(environ: Mapping[str, str]) -> PluginSettings | None:
    """Read the plugin's settings, or return `None` when the policy is off.

    Raises:
        ConfigurationError: a value is wrong; the message names the variable.
    """
    name = environ.get("AUTELLIX_POLICY") or POLICY_OFF
    if name == POLICY_OFF:
        return None
    if name not in ENGINE_POLICIES:
        choices = ", ".join((*ENGINE_POLICIES, POLICY_OFF))
        raise ConfigurationError(f"AUTELLIX_POLICY is {name!r}; choose one of: {choices}")
    bound = environ.get("AUTELLIX_FIRST_BOUND_S") or str(DEFAULT_FIRST_BOUND_S)
    try:
        levels = geometric_levels(first_bound_s=float(bound))
    except (ValueError, ConfigurationError) as error:
        raise ConfigurationError(f"AUTELLIX_FIRST_BOUND_S={bound!r} is not a number of seconds above 0") from error
    return PluginSettings(
        policy=make_policy(name, levels),
        engine_name=environ.get("AUTELLIX_ENGINE_NAME") or "engine",
        secret=read_secret(environ),
    )
