"""Engines that run already and are attached by URL: what is said of them on the command line or in a file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from yarl import URL

from autellix_sdk.errors import ConfigurationError
from autellix_server.stamp import parse_secret


class EngineSpec(BaseModel):
    """One engine to attach. Immutable; unknown keys are an error.

    Attributes:
        url: base URL, without ``/v1``.
        name: in bills and metrics; empty: host and port of the URL.
        key_env: name of the environment variable with its API key; `None`: it wants none.
        secret_env: name of the environment variable with the secret that the engine shares (``AUTELLIX_SECRET`` there),
            in hexadecimal digits; `None`: it gets no stamps, and is trusted with no bills.
        window: calls that it gets at once, if it has no plugin of ours; `None`: learned from its latency.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    name: str = Field("", max_length=64, pattern=r"^[A-Za-z0-9._:\[\]-]*$")
    key_env: str | None = None
    secret_env: str | None = None
    window: int | None = Field(None, ge=1)

    @field_validator("url")
    @classmethod
    def _good_url(cls, value: str) -> str:
        url = URL(value)
        if url.scheme not in {"http", "https"} or not url.host or url.user or url.query_string or url.fragment:
            raise ValueError("give http://host:port, without user, query or fragment")
        return str(url).rstrip("/").removesuffix("/v1")

    @property
    def label(self) -> str:
        """Name in bills and metrics."""
        return self.name or URL(self.url).authority

    def credentials(self, environ: Mapping[str, str]) -> tuple[str, bytes | None]:
        """Return the engine's API key, empty for none, and its secret.

        Raises:
            ConfigurationError: a variable that is named is not set, the key cannot be sent, or the secret is none.
        """
        key = "" if self.key_env is None else self._variable(environ, self.key_env, "key_env")
        if self.secret_env is None:
            return key, None
        return key, parse_secret(self._variable(environ, self.secret_env, "secret_env"), self.secret_env)

    def _variable(self, environ: Mapping[str, str], name: str, setting: str) -> str:
        where = f"{setting} of engine {self.label} is {name}"
        value = environ.get(name, "").strip()  # secrets that are mounted often end with a newline
        if not value:
            raise ConfigurationError(f"{where}: there is no such environment variable, or it is empty")
        if not value.isprintable():
            raise ConfigurationError(f"{where}: its value has characters that no header can carry")
        return value


class _EnginesFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: tuple[EngineSpec, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls.model_validate(tomllib.loads(text))


def spec_of_url(url: str) -> EngineSpec:
    """Return what ``--engine-url`` says.

    Raises:
        ConfigurationError: it is no URL.
    """
    try:
        return EngineSpec.model_validate({"url": url})
    except (ValidationError, ValueError):
        raise ConfigurationError(
            f"--engine-url (or AUTELLIX_ENGINE_URL) is {url!r}: give http://host:port, without user, query or fragment"
        ) from None


def read_specs(path: Path) -> tuple[EngineSpec, ...]:
    """Read a file of engines.

    Raises:
        ConfigurationError: it cannot be read, or says something that is wrong; the message names it.
    """
    setting = f"--engines-file (or AUTELLIX_ENGINES_FILE) is {str(path)!r}"
    try:
        specs = _EnginesFile.parse(path.read_text("utf-8")).engine
    except OSError as error:
        raise ConfigurationError(f"{setting}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{setting}: it is no TOML: {error}") from error
    except ValidationError as error:
        raise ConfigurationError(f"{setting}: {_first(error.errors()[0])}") from None
    check_distinct(specs)
    return specs


def check_distinct(specs: Iterable[EngineSpec], taken: Iterable[str] = ()) -> None:
    """Check that no two engines have one name, or one URL.

    Args:
        specs: of the engines.
        taken: names of other engines.

    Raises:
        ConfigurationError: two have.
    """
    names, urls = set(taken), set[str]()
    for spec in specs:
        if spec.label in names:
            raise ConfigurationError(f"two engines are called {spec.label}; give each a name of its own")
        if spec.url in urls:
            raise ConfigurationError(f"two engines have the URL {spec.url}; leave one of them out")
        names.add(spec.label)
        urls.add(spec.url)


def _first(error: Mapping[str, Any]) -> str:
    where = ".".join(map(str, error["loc"])) or "file"
    return f"{where}: {str(error['msg']).removeprefix('Value error, ')}"
