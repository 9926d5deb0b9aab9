"""What the engine process is told, through environment variables, since SGLang starts its own processes.

| variable | meaning |
|---|---|
| ``AUTELLIX_POLICY`` | policy name; unset or ``off``: no hook is registered, the engine is stock |
| ``AUTELLIX_ENGINE_NAME`` | name in bills and metrics; default ``engine`` |
| ``AUTELLIX_FIRST_BOUND_S`` | upper bound of the best level in seconds of attained service |
| ``AUTELLIX_STEPS_BETWEEN_PLANS`` | forward passes after which the planner looks again at who runs |
| ``AUTELLIX_SECRET`` | hexadecimal secret shared with the gateway, whose signed stamps are then believed |
| ``AUTELLIX_CPU`` | ``1`` activates the CPU platform (see `platform`) |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.command import POLICY_OFF, is_planned
from autellix_server.scheduling.levels import DEFAULT_FIRST_BOUND_S, geometric_levels
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.scheduling.policies import SERVABLE, make_policy
from autellix_server.scheduling.policy import Policy
from autellix_server.stamp import read_secret

_PLANNER = PlannerSettings(spares=0)


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Settings of the engine plugin.

    Attributes:
        policy: decides levels; each process of the engine has its own.
        engine_name: name in bills.
        secret: verifies the gateway's stamps; `None` when no gateway stands in front.
        planner: how the planner guards and how often it looks.
    """

    policy: Policy
    engine_name: str = "engine"
    secret: bytes | None = None
    planner: PlannerSettings = _PLANNER

    @property
    def planned(self) -> bool:
        """Whether the planner decides who runs, rather than SGLang."""
        return is_planned(self.policy.name)


def read_settings(environ: Mapping[str, str]) -> PluginSettings | None:
    """Read the plugin's settings, or return `None` when the policy is off.

    Raises:
        ConfigurationError: a value is wrong; the message names the variable.
    """
    name = environ.get("AUTELLIX_POLICY") or POLICY_OFF
    if name == POLICY_OFF:
        return None
    if name not in SERVABLE:
        choices = ", ".join((*SERVABLE, POLICY_OFF))
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
        planner=_planner(environ.get("AUTELLIX_STEPS_BETWEEN_PLANS")),
    )


def _planner(steps_between_plans: str | None) -> PlannerSettings:
    if not steps_between_plans:
        return _PLANNER
    try:
        return replace(_PLANNER, steps_between_plans=int(steps_between_plans))
    except (ValueError, ConfigurationError) as error:
        raise ConfigurationError(
            f"AUTELLIX_STEPS_BETWEEN_PLANS={steps_between_plans!r} is not a whole number above 0"
        ) from error
