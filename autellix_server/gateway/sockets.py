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
    flags = f"{setting.replace('port', 'host')} {host} and {setting} {port}"
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
    except UnicodeError as error:
        raise ConfigurationError(f"cannot listen on {flags}: that is no name of a host") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {port} on {host} is in use; stop what uses it or choose another port with {setting}"
            ) from error
        raise ConfigurationError(f"cannot listen on {flags}: {error.strerror or error}") from error
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
        # Without a password OpenSSL would ask for the one of an encrypted key on the terminal, in each worker anew.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except ssl.SSLError as error:
        reason = "they are no PEM files of a certificate and its key, without a password"
        raise ConfigurationError(f"{_tls_files(settings)} cannot be used: {reason} ({error.strerror})") from error
    except OSError as error:
        raise ConfigurationError(f"{_tls_files(settings)} cannot be used: {error.strerror or error}") from error
    return context


def _tls_files(settings: ServeSettings) -> str:
    return f"--tls-cert {settings.tls_cert}" + (f" and --tls-key {settings.tls_key}" if settings.tls_key else "")
