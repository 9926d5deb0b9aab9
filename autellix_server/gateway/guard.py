"""Who may speak to the gateway: checks of ``Host`` and ``Origin``, because browsers can reach loopback. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit


class HostGuard:
    """Knows the names under which the gateway answers.

    Every address in digits is one of them: only names can be rebound to this machine by someone else's DNS.

    Args:
        names: further names, without port; case is ignored.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {"localhost", *(name.lower() for name in names)}

    def allows(self, host: str) -> bool:
        """Return whether a request may carry `host`, with or without a port, in its ``Host`` header."""
        name = _host_name(host)
        return name is not None and (name in self._names or name.endswith(".localhost") or _is_address(name))


def is_loopback(host: str) -> bool:
    """Return whether a server that listens on `host` can be reached from this machine only."""
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


class OriginGuard:
    """Knows the web pages that may use the gateway: those of its own host and port, and those named.

    Args:
        origins: further pages, as ``scheme://host[:port]``.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    def allows(self, origin: str | None, host: str) -> bool:
        """Return whether a request with this ``Origin`` (`None` when no page made it) and ``Host`` is let through."""
        if origin is None or origin.lower() in self._origins:
            return True
        try:
            return urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:
            return False


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
