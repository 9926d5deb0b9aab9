"""What our HTTP servers have in common when they listen."""

from __future__ import annotations

BACKLOG = 2048
"""Connections that may wait to be accepted. Hundreds of clients may connect at once, and one that finds the queue full
tries again after a second, then two, then four. Linux caps it at ``net.core.somaxconn``, usually 4096."""


def base_url(host: str, port: int, *, secure: bool = False) -> str:
    """Return the URL, without a path, of a server at an address as `socket.getsockname` gives it."""
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
