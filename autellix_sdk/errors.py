"""Every error that Autellix raises, in one tree.

```
AutellixError
├── UsageError             the caller misused the API (a name too long, a scope entered twice)
├── ConfigurationError     a setting is missing or wrong; the message names it and the remedy
├── WireError              a header or body does not follow the wire contract
└── ServerError            (autellix_server.errors) engine, environment and gateway failures
```
"""

from __future__ import annotations


class AutellixError(Exception):
    """Base of every error that Autellix raises on purpose."""


class UsageError(AutellixError, ValueError):
    """The caller passed a value the API does not accept."""


class ConfigurationError(AutellixError):
    """A setting is missing or wrong; the message names the setting and the remedy."""


class WireError(AutellixError, ValueError):
    """A header or body does not follow the wire contract of `autellix_sdk.wire`."""
