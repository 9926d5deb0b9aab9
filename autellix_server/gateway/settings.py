"""Settings of `autellix serve`, read once: arguments over ``AUTELLIX_*`` environment variables over defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.command import POLICY_OFF
from autellix_server.gateway import DEFAULT_HOST, DEFAULT_PORT
from autellix_server.scheduling.levels import DEFAULT_FIRST_BOUND_S
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.scheduling.policies import SERVABLE
from autellix_server.scheduling.table import TableLimits

POLICY_CHOICES = (*SERVABLE, POLICY_OFF)

_ENV_PREFIX = "AUTELLIX_"
_MIB = 1 << 20


class ServeSettings(BaseSettings):
    """Everything that shapes one gateway and its engine. Immutable; unknown names are an error.

    Attributes:
        host: address the gateway listens on.
        port: port the gateway listens on; 0 takes a free one.
        allowed_hosts: further names that requests may carry in ``Host``; separated by commas in the environment.
        allowed_origins: web pages, as ``scheme://host[:port]``, that may use the server from a browser.
        max_body_bytes: largest request body.
        model: model folder or Hugging Face ID; `None` is the bundled model.
        policy: scheduling policy, or ``off`` for the engine as SGLang ships it.
        device: what the engine computes on; ``auto`` takes a CUDA device where there is one.
        first_bound_s: upper bound of the best priority level, in seconds of attained service.
        steps_between_plans: forward passes after which the planner looks again at who runs.
        host_kv_gb: gigabytes, 1e9 bytes, of host memory for KV that the device has no room for, for each rank of the
            engine; 0: none.
        lease_s: a program without a call ends this many seconds after its last one.
        record_trace: file that programs are recorded to as a trace, new or empty; `None` records nothing.
    """

    model_config = SettingsConfigDict(env_prefix=_ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    host: str = Field(DEFAULT_HOST, min_length=1)
    port: int = Field(DEFAULT_PORT, ge=0, le=65535)
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    max_body_bytes: int = Field(64 * _MIB, gt=0)
    model: str | None = None
    policy: str = "plas"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    first_bound_s: float = Field(DEFAULT_FIRST_BOUND_S, gt=0, allow_inf_nan=False)
    steps_between_plans: int = Field(PlannerSettings().steps_between_plans, ge=1)
    host_kv_gb: int = Field(0, ge=0)
    lease_s: float = Field(TableLimits().lease_s, gt=0, allow_inf_nan=False)
    record_trace: Path | None = None

    @field_validator("allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("model", "record_trace", mode="before")
    @classmethod
    def _expand_user(cls, value: object) -> object:
        return os.path.expanduser(value) if isinstance(value, str) else value

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, value: str) -> str:
        if value not in POLICY_CHOICES:
            raise ValueError(f"choose one of: {', '.join(POLICY_CHOICES)}")
        return value


def read_settings(arguments: Mapping[str, Any]) -> ServeSettings:
    """Read the settings.

    Args:
        arguments: values given on the command line, by field name; `None` means not given.

    Raises:
        ConfigurationError: a value is wrong; the message names the setting and where it can be set.
    """
    try:
        return ServeSettings(**{name: value for name, value in arguments.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        reason = first["msg"].removeprefix("Value error, ")
        flag, variable = f"--{name.replace('_', '-')}", f"{_ENV_PREFIX}{name.upper()}"
        raise ConfigurationError(f"{flag} (or {variable}) is {first['input']!r}: {reason}") from None
