"""Program IDs by tenant: the client's own ID on one side, the one that table and engine know on the other. Pure.

A tenant's programs are known as ``<tenant>.<own ID>``; names of tenants have no dot, so that two tenants never meet,
whatever they call their programs. Both sides are valid on the wire. An own ID for which 64 characters leave no room is
replaced by a digest that stands for it from then on: in lists, and for whoever asks by either of the two.

The tenant without a name keeps its IDs as they are. It is alone: a gateway with keys serves nobody else.
"""

from __future__ import annotations

import hashlib

from autellix_sdk.wire import ProgramId

_LONGEST = 64
"""Characters of a program ID on the wire."""

_DIGEST_DIGITS = 32


def scoped_id(tenant: str, own: ProgramId) -> ProgramId:
    """Return the ID under which table and engine know a tenant's program.

    Args:
        tenant: its name; empty: the one there is.
        own: what the client calls it, valid on the wire.
    """
    if not tenant:
        return own
    if len(tenant) + 1 + len(own) > _LONGEST:
        own = ProgramId("s-" + hashlib.sha256(own.encode()).hexdigest()[:_DIGEST_DIGITS])
    return ProgramId(f"{tenant}.{own}")


def own_id(tenant: str, scoped: ProgramId) -> ProgramId | None:
    """Return what the tenant calls a program, or `None` where it is another's.

    Of an ID that was too long this is its digest; where a client's request is at hand its own ID is known from there.
    """
    if not tenant:
        return scoped
    owner, dot, own = scoped.partition(".")
    return ProgramId(own) if dot and owner == tenant else None


def tenant_of(scoped: ProgramId) -> str:
    """Return whose program it is, at a gateway with keys."""
    return scoped.partition(".")[0]
