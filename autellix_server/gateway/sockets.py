"""Where the gateway listens: its ports, and TLS on them."""

from __future__ import annotations

import errno
import socket
import ssl

from autellix_sdk.errors import ConfigurationError
from autellix_server.gateway.settings import ServeSettings
from autellix_server.listening import BACKLOG


def bind(host: str, port: int, setting: str = "--port") -> socket.socket:
    """Take a port and listen on it, so that a port in use is known before anything is started.

    Connections made before the gateway serves wait in the backlog.

    Args:
        host: name or address of this machine.
        port: 0 takes a free one.
        setting: where the port comes from, for the error.

    Raises:
        ConfigurationError: the port is in use or the address is not this machine's; says what to do.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)  # two sockets that do not listen yet could share the port
        except OSError:
            bound.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {port} on {host} is in use; stop what uses it or choose another port with {setting}"
            ) from error
        raise ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return bound


def tls_context(settings: ServeSettings) -> ssl.SSLContext | None:
    """Return what encrypts connections, `None` when nothing does.

    Raises:
        ConfigurationError: certificate or key cannot be used; the message names the setting.
    """
    if settings.tls_cert is None:
        if settings.tls_key is not None:
            raise ConfigurationError("--tls-key (or AUTELLIX_TLS_KEY) needs --tls-cert")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:  # ssl.SSLError is one
        files = f"--tls-cert {settings.tls_cert}" + (f" and --tls-key {settings.tls_key}" if settings.tls_key else "")
        raise ConfigurationError(f"{files} cannot be used: {error.strerror or error}") from error
    return context
