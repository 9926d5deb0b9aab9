"""What the engine process is told, through environment variables, since SGLang starts its own processes.

| variable | meaning |
|---|---|
| ``AUTELLIX_POLICY`` | policy name; unset or ``off``: no hook is registered, the engine is stock |
| ``AUTELLIX_ENGINE_NAME`` | name in bills and metrics; default ``engine`` |
| ``AUTELLIX_FIRST_BOUND_S`` | upper bound of the best level in seconds of attained service; ``auto``: calibrated |
| ``AUTELLIX_BOUNDS_S`` | every bound of the levels in seconds, separated by commas, in place of the first alone |
| ``AUTELLIX_BETA`` | a program that waited this many times as long as it was served is promoted; ``inf``: none is |
| ``AUTELLIX_HOLD_S`` | seconds that a program's KV keeps its place on the device between two calls; 0: not at all |
| ``AUTELLIX_STEPS_BETWEEN_PLANS`` | forward passes after which the planner looks again at who runs |
| ``AUTELLIX_SWAP_CHECK`` | share of the pages of KV that go to host memory which is checked before it is used again |
| ``AUTELLIX_SECRET`` | hexadecimal secret shared with the gateway, whose signed stamps are then believed |
| ``AUTELLIX_CPU`` | ``1`` activates the CPU platform (see `platform`) |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.command import POLICY_OFF, is_planned
from autellix_server.scheduling.bounds import BoundSettings
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.scheduling.policies import SERVABLE, make_policy
from autellix_server.scheduling.policy import Policy
from autellix_server.stamp import read_secret

_PLANNER = PlannerSettings(spares=0)
_SWAP_CHECK = 0.02


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Settings of the engine plugin.

    Attributes:
        policy: decides levels; each process of the engine has its own.
        engine_name: name in bills.
        secret: verifies the gateway's stamps; `None` when no gateway stands in front.
        planner: how the planner guards and how often it looks.
        swap_check: share of the pages of KV that go to host memory, 0 to 1, which is checked when they come back.
    """

    policy: Policy
    engine_name: str = "engine"
    secret: bytes | None = None
    planner: PlannerSettings = _PLANNER
    swap_check: float = _SWAP_CHECK

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
    bounds = _bounds(environ)
    return PluginSettings(
        policy=make_policy(name, bounds.levels),
        engine_name=environ.get("AUTELLIX_ENGINE_NAME") or "engine",
        secret=read_secret(environ),
        planner=_planner(environ, calibrated=bounds.calibrated),
        swap_check=_read(environ, "AUTELLIX_SWAP_CHECK", _share, _SWAP_CHECK),
    )


_Value = TypeVar("_Value")


def _bounds(environ: Mapping[str, str]) -> BoundSettings:
    def first(text: str) -> float | None:
        return None if text == "auto" else BoundSettings(float(text)).first_bound_s

    def every(text: str) -> tuple[float, ...]:
        return BoundSettings(first_bound_s, tuple(map(float, text.split(",")))).bounds_s

    first_bound_s = _read(environ, "AUTELLIX_FIRST_BOUND_S", first, None)
    return BoundSettings(first_bound_s, _read(environ, "AUTELLIX_BOUNDS_S", every, ()))


def _planner(environ: Mapping[str, str], *, calibrated: bool) -> PlannerSettings:
    def steps(text: str) -> int:
        return replace(_PLANNER, steps_between_plans=int(text)).steps_between_plans

    def beta(text: str) -> float:
        return replace(_PLANNER, beta=float(text)).beta

    def hold(text: str) -> float:
        return replace(_PLANNER, hold_s=float(text)).hold_s

    return replace(
        _PLANNER,
        steps_between_plans=_read(environ, "AUTELLIX_STEPS_BETWEEN_PLANS", steps, _PLANNER.steps_between_plans),
        beta=_read(environ, "AUTELLIX_BETA", beta, _PLANNER.beta),
        hold_s=_read(environ, "AUTELLIX_HOLD_S", hold, _PLANNER.hold_s),
        calibrated=calibrated,
    )


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise ConfigurationError("it has to be a share, 0 to 1")
    return share


def _read(environ: Mapping[str, str], variable: str, read: Callable[[str], _Value], default: _Value) -> _Value:
    """Return what a variable says, `default` when it is not set or empty.

    Raises:
        ConfigurationError: it cannot be read; the message names it, its value and the reason.
    """
    text = environ.get(variable)
    if not text:
        return default
    try:
        return read(text)
    except (ValueError, ConfigurationError) as error:
        raise ConfigurationError(f"{variable} is {text!r}: {error}") from error
