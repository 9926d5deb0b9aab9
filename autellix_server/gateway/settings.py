"""Settings of `autellix serve`, read once: arguments over ``AUTELLIX_*`` environment variables over defaults."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from autellix_sdk.errors import ConfigurationError
from autellix_server.balancing.balancer import DEFAULT_BALANCER, make_balancer
from autellix_server.engine.command import POLICY_OFF
from autellix_server.gateway import DEFAULT_HOST, DEFAULT_PORT
from autellix_server.gateway.telemetry.logs import LogFormat, LogLevel
from autellix_server.scheduling.bounds import BoundSettings
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.scheduling.policies import DEFAULT_POLICY, SERVABLE
from autellix_server.scheduling.table import TableLimits

POLICY_CHOICES = (*SERVABLE, POLICY_OFF)

NO_STATE = "none"
"""Value of the setting `state` for a gateway that forgets."""

_ENV_PREFIX = "AUTELLIX_"
_MIB = 1 << 20


class ServeSettings(BaseSettings):
    """Everything that shapes one gateway and its engine. Immutable; unknown names are an error.

    Attributes:
        host: address the gateway listens on.
        port: port the gateway listens on; 0 takes a free one.
        workers: processes that move bytes, beside this one that decides; 0: this one moves them too.
        admin_host: address that operators' endpoints are served on, with `admin_port`.
        admin_port: port for operators' endpoints; 0 takes a free one; `None`: they are served with all others where
            only this machine can reach them, and nowhere else.
        tls_cert: PEM file of the certificate chain; with it clients and operators use https.
        tls_key: PEM file of its private key; `None`: it is in `tls_cert`.
        keys_file: TOML file of tenants and hashed API keys, followed while serving; `None`: ``AUTELLIX_KEYS`` has them,
            or callers need none.
        state: file that programs and what was learned survive a restart in; `NO_STATE`: nowhere; `None`: one for each
            port.
        log_format: ``text`` or ``json``, one line each on standard error.
        log_level: least level of what is logged; ``info`` is one line for each call.
        allowed_hosts: further names that requests may carry in ``Host``; separated by commas in the environment.
        allowed_origins: web pages, as ``scheme://host[:port]``, that may use the server from a browser.
        max_body_bytes: largest request body.
        idle_limit_s: a connection that brings no request for so long, or not the rest of one, is dropped.
        model: model folder or Hugging Face ID; `None` is the bundled model.
        engines: engines that are started on this machine; `None`: one, or none where others are attached.
        engine_url: base URLs of running engines to attach; separated by commas in the environment.
        engines_file: TOML file of running engines to attach, followed while serving; see `fleet.specs`.
        hang_limit_s: an engine that gives no sign of life for so long is lost, and started again; ``inf``: never.
        balancer: what chooses among several engines.
        policy: scheduling policy, or ``off`` for the engine as SGLang ships it.
        device: what the engine computes on; ``auto`` takes a CUDA device where there is one.
        first_bound_s: upper bound of the best priority level, in seconds of attained service; `None`, or ``auto`` where
            it is set: calibrated.
        bounds_s: every bound of the levels, separated by commas where they are set; empty: they follow from the first.
        beta: a program that waited this many times as long as it was served is promoted; ``inf``: none is.
        steps_between_plans: forward passes after which the planner looks again at who runs.
        hold_s: seconds that a program's KV keeps its place on the device between two calls; 0: not at all.
        host_kv_gb: gigabytes, 1e9 bytes, of host memory for KV that the device has no room for, for each rank of the
            engine; 0: none.
        lease_s: a program without a call ends this many seconds after its last one.
        record_trace: file that programs are recorded to as a trace, new or empty; `None` records nothing.
    """

    model_config = SettingsConfigDict(
        env_prefix=_ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", ser_json_inf_nan="constants"
    )

    host: str = Field(DEFAULT_HOST, min_length=1)
    port: int = Field(DEFAULT_PORT, ge=0, le=65535)
    workers: int = Field(0, ge=0, le=256)
    admin_host: str = Field(DEFAULT_HOST, min_length=1)
    admin_port: int | None = Field(None, ge=0, le=65535)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    keys_file: Path | None = None
    state: str | None = Field(None, min_length=1)
    log_format: LogFormat = "text"
    log_level: LogLevel = "warning"
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    max_body_bytes: int = Field(64 * _MIB, gt=0)
    idle_limit_s: float = Field(75.0, gt=0, allow_inf_nan=False)
    model: str | None = None
    engines: int | None = Field(None, ge=0, le=64)
    engine_url: Annotated[tuple[str, ...], NoDecode] = ()
    engines_file: Path | None = None
    hang_limit_s: float = Field(60.0, gt=0)
    balancer: str = DEFAULT_BALANCER
    policy: str = DEFAULT_POLICY
    device: Literal["auto", "cpu", "cuda"] = "auto"
    first_bound_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    bounds_s: Annotated[tuple[float, ...], NoDecode] = ()
    beta: float = Field(PlannerSettings().beta, gt=0)
    steps_between_plans: int = Field(PlannerSettings().steps_between_plans, ge=1)
    hold_s: float = Field(PlannerSettings().hold_s, ge=0)
    host_kv_gb: int = Field(0, ge=0)
    lease_s: float = Field(TableLimits().lease_s, gt=0, allow_inf_nan=False)
    record_trace: Path | None = None

    @property
    def started_engines(self) -> int:
        """Number of engines that are started on this machine."""
        if self.engines is None:
            return 0 if self.engine_url or self.engines_file is not None else 1
        return self.engines

    @property
    def bounds(self) -> BoundSettings:
        """What was said about the bounds of levels."""
        return BoundSettings(self.first_bound_s, self.bounds_s)

    @field_validator("first_bound_s", mode="before")
    @classmethod
    def _calibrated(cls, value: object) -> object:
        return None if value == "auto" else value

    @field_validator("bounds_s", mode="before")
    @classmethod
    def _good_bounds(cls, value: object, info: ValidationInfo) -> tuple[float, ...]:
        listed = value.split(",") if isinstance(value, str) else cast("Iterable[float]", value)
        try:
            return BoundSettings(info.data.get("first_bound_s"), tuple(map(float, listed))).bounds_s
        except ConfigurationError as error:
            raise ValueError(str(error)) from error

    @field_validator("allowed_hosts", "allowed_origins", "engine_url", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator(
        "model", "record_trace", "engines_file", "tls_cert", "tls_key", "keys_file", "state", mode="before"
    )
    @classmethod
    def _expand_user(cls, value: object) -> object:
        return os.path.expanduser(value) if isinstance(value, str) else value

    @field_validator("host", "admin_host")
    @classmethod
    def _without_brackets(cls, value: str) -> str:
        """Take an IPv6 address also as URLs write it."""
        return value[1:-1] if value.startswith("[") and value.endswith("]") else value

    @field_validator("balancer")
    @classmethod
    def _known_balancer(cls, value: str) -> str:
        try:
            return make_balancer(value).name
        except ConfigurationError as error:
            raise ValueError(str(error)) from error

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
