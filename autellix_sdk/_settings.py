"""What `init` was told: read once, from arguments and the environment, and frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal, Protocol
from urllib.parse import unquote, urlsplit

from autellix_sdk._dialects import Dialect, find_dialects
from autellix_sdk.errors import ConfigurationError, UsageError

Implicit = Literal["root", "off"]

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Url(Protocol):
    """The part of an httpx or httpx2 URL that the allow-list looks at."""

    @property
    def scheme(self) -> str:
        """Scheme, lower case."""

    @property
    def raw_host(self) -> bytes:
        """Host as it is looked up: lower case, ASCII, without brackets, port or user information."""

    @property
    def port(self) -> int | None:
        """Port, or `None` for the scheme's default."""

    @property
    def path(self) -> str:
        """Path, percent-decoded."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The one place that may see our headers.

    Attributes:
        scheme: ``http`` or ``https``.
        host: lower case, ASCII (``xn--`` where it was not), without brackets, an IPv6 address in its shortest form.
        port: effective port.
        path: path prefix, percent-decoded, without a trailing slash; empty for the root.
    """

    scheme: str
    host: bytes
    port: int
    path: str

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Parse a base URL such as ``http://127.0.0.1:8700/v1``; raise `ValueError` when it is not one."""
        try:
            parts = urlsplit(text)
            name, port = parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
            host = _shortest(name.encode("ascii" if name.isascii() else "idna"))
        except ValueError:  # not passed on: it may quote a password
            host = b""
        if not host or parts.scheme not in _DEFAULT_PORTS:
            raise ValueError("it must be an http or https URL with a host")
        return cls(parts.scheme, host, port, unquote(parts.path).rstrip("/"))

    @property
    def origin(self) -> str:
        """Scheme, host and port as a URL, without a path."""
        host = self.host.decode()
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def covers(self, url: Url) -> bool:
        """Whether a request to `url` goes to this endpoint. Called for every request, so cheap tests come first."""
        return (
            ((host := url.raw_host) == self.host or _shortest(host) == self.host)
            and url.scheme == self.scheme
            and (url.port or _DEFAULT_PORTS[self.scheme]) == self.port
            and self._holds(url.path)
        )

    def may_serve(self, base: Endpoint) -> bool:
        """Whether a client with the base URL `base` can make requests that this endpoint covers."""
        same_origin = (base.scheme, base.host, base.port) == (self.scheme, self.host, self.port)
        return same_origin and (self._holds(base.path) or self.path.startswith(base.path + "/"))

    def _holds(self, path: str) -> bool:
        if not self.path:
            return True
        # A path that climbs out with dot segments, encoded or not, is not under the prefix.
        climbs = "/." in path and not {".", ".."}.isdisjoint(path.split("/"))
        return not climbs and (path.startswith(self.path + "/") or path == self.path)


def without_password(url: str) -> str:
    """Return what may be a URL for people to read: without anything that may be a user name and password in it."""
    _, at, rest = url.rpartition("@")
    return f"***@{rest}" if at else url


def _shortest(host: bytes) -> bytes:
    """Return a host with an IPv6 address in its one shortest form."""
    return str(ip_address(host.decode())).encode() if b":" in host else host


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one `init`.

    Attributes:
        endpoint: where calls are stamped; `None` stamps nothing.
        api_key: sent with the end of programs; `None` sends none.
        threads: whether identity follows work handed to OS threads.
        implicit: ``root`` gives calls outside any scope a program per root task or root thread job; ``off`` leaves
            them unstamped.
        tasks: whether event loops are wrapped; else `task_factory` links tasks.
        dialects: what else stamped calls say, for other servers.
    """

    endpoint: Endpoint | None
    api_key: str | None
    threads: bool
    implicit: Implicit
    tasks: bool = True
    dialects: tuple[Dialect, ...] = ()


def read_settings(
    base_url: str | None,
    api_key: str | None,
    threads: bool,
    implicit: Implicit,
    environ: Mapping[str, str],
    tasks: bool = True,
    dialects: Iterable[str] | None = None,
) -> Settings:
    """Combine the arguments of `init` with the environment.

    The base URL is the argument, else ``AUTELLIX_BASE_URL``, else ``OPENAI_BASE_URL``. The key is the argument, else
    ``AUTELLIX_API_KEY``, else ``OPENAI_API_KEY`` where the base URL came from ``OPENAI_BASE_URL``: an OpenAI key goes
    nowhere but to the host it belongs to. The dialects are the argument, else ``AUTELLIX_DIALECTS``.

    Raises:
        UsageError: an argument has a value that is not accepted.
        ConfigurationError: an environment variable does not hold a URL, or names a dialect that there is not.
    """
    if implicit not in ("root", "off"):
        raise UsageError(f'implicit={implicit!r} is not "root" or "off"')
    spoken = _read_dialects(dialects, environ)
    endpoint = None
    key = api_key or environ.get("AUTELLIX_API_KEY") or None
    if base_url is not None:
        try:
            endpoint = Endpoint.parse(base_url)
        except ValueError as error:
            raise UsageError(f"base_url={without_password(base_url)!r}: {error}") from error
    else:
        variable = "AUTELLIX_BASE_URL" if environ.get("AUTELLIX_BASE_URL") else "OPENAI_BASE_URL"
        if text := environ.get(variable):
            try:
                endpoint = Endpoint.parse(text)
            except ValueError as error:
                shown = without_password(text)
                raise ConfigurationError(f"{variable}={shown!r}: {error}; correct or unset it") from error
            if variable == "OPENAI_BASE_URL":
                key = key or environ.get("OPENAI_API_KEY") or None
    return Settings(endpoint, key, threads, implicit, tasks, spoken)


def _read_dialects(argument: Iterable[str] | None, environ: Mapping[str, str]) -> tuple[Dialect, ...]:
    if argument is not None:
        try:
            return find_dialects(argument)
        except (TypeError, ValueError) as error:
            raise UsageError(f"dialects={argument!r}: {error}") from error
    text = environ.get("AUTELLIX_DIALECTS", "")
    try:
        return find_dialects(text)
    except ValueError as error:
        raise ConfigurationError(f"AUTELLIX_DIALECTS={text!r}: {error}; correct or unset it") from error
