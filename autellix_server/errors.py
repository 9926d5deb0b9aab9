"""Errors of the server side, printed as a tree. All of them are `autellix_sdk.errors.AutellixError`.

```
AutellixError              (autellix_sdk.errors)
└── ServerError            something on the server side failed; `exit_code` is what a command exits with
    ├── EnvironmentFailure the engine environment or the bundled model cannot be built or used
    ├── EngineFailure      the engine did not start, died, or is not the engine we started
    ├── RefusedFlag        an engine flag that the plugin cannot work with
    ├── KeyRefused         (autellix_server.gateway.tenants.keys) a request without an API key that is good
    ├── StoreFailure       (autellix_server.gateway.state.store) the disk would not take or give what is stored
    └── TraceError         (autellix_server.traces.model) a trace breaks the format
```
"""

from __future__ import annotations

from autellix_sdk.errors import AutellixError


class ServerError(AutellixError):
    """A server-side failure that ends a command with one sentence and a non-zero exit code."""

    exit_code = 1


class EnvironmentFailure(ServerError):
    """The engine environment or the bundled model cannot be built or used."""

    exit_code = 3


class EngineFailure(ServerError):
    """The engine did not start, died, or does not carry the plugin we asked for."""

    exit_code = 4


class RefusedFlag(ServerError):
    """An engine flag that the plugin cannot work with; the message names the flag and the reason."""

    exit_code = 2
