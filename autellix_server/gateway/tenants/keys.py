"""API keys: made from randomness, kept as digests, looked up without telling by timing what was close.

A key is 32 bytes from the system's generator. Of something that nobody can guess, one pass of SHA-256 is as good at
rest as a slow hash: those slow down guessing at passwords, and 2^256 keys cannot be gone through at any speed. It is
taken with every request, too. So that no password ends up as a key, short ones are refused whatever the file says.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from autellix_server.errors import ServerError
from autellix_server.gateway.tenants.limits import NO_LIMITS, Limits

LEAST_KEY_CHARACTERS = 32
"""Shorter keys are refused: ours have 46."""

_PREFIX = "ax-"
_KEY_BYTES = 32
_INDEX_BYTES = 8


class KeyRefused(ServerError):
    """A request without a key that is good now; the message says why and is fit for the client."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who calls.

    Attributes:
        name: as in `scheduling.shares.TENANT_NAME`; empty: the one there is where nobody is told apart.
        weight: share beside other tenants, above 0.
        limits: what it may ask for.
    """

    name: str = ""
    weight: float = 1.0
    limits: Limits = NO_LIMITS


EVERYBODY = Tenant()
"""The one tenant of a gateway without keys: weight 1 and no limits."""


@dataclass(frozen=True, slots=True)
class HashedKey:
    """One key at rest.

    Attributes:
        digest: SHA-256 of the key.
        tenant: whose it is.
        expires: from when on it is refused; `None`: it is good for ever.
    """

    digest: bytes
    tenant: Tenant
    expires: datetime | None = None


def new_key() -> str:
    """Return a fresh key: 256 random bits as text that fits a header, a URL and a shell."""
    return _PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def digest_of(key: str) -> bytes:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def presented_key(headers: Mapping[str, str]) -> str | None:
    """Return the API key that a request carries, wherever its API has it; `None`: it has none.

    Args:
        headers: request headers, in a mapping that ignores case.
    """
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key") or headers.get("api-key") or None


class KeyRing:
    """All keys there are. Without any, everybody may call, and all are one tenant.

    Args:
        keys: no digest twice.
    """

    def __init__(self, keys: Iterable[HashedKey] = ()) -> None:
        # Found by a part of the digest, compared whole: what a look-up tells by its time is about digests, and who can
        # choose neither a digest's start nor its rest learns nothing that leads to a key.
        self._keys = {key.digest[:_INDEX_BYTES]: key for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def tenant_of(self, key: str | None, now: datetime) -> Tenant:
        """Return whose key it is.

        Args:
            key: as the client presented it; `None`: it presented none.
            now: with a time zone.

        Raises:
            KeyRefused: there are keys, and this is none of them, or one that has expired.
        """
        if not self._keys:
            return EVERYBODY
        if key is None:
            raise KeyRefused("this server needs an API key: send it as Authorization: Bearer KEY")
        digest = digest_of(key)
        found = self._keys.get(digest[:_INDEX_BYTES])
        known = found is not None and hmac.compare_digest(found.digest, digest)
        if found is None or not known or len(key) < LEAST_KEY_CHARACTERS:
            raise KeyRefused("this API key is not known here")
        if found.expires is not None and found.expires <= now:
            raise KeyRefused(f"this API key expired on {found.expires:%Y-%m-%d}; ask for a new one")
        return found.tenant
