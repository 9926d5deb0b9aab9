"""`autellix key`: make API keys for the gateway's tenants."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta

from autellix_sdk.errors import UsageError
from autellix_server.commands.arguments import count
from autellix_server.commands.output import Subparsers, add_command, print_json

EPILOG = """\
Without keys the gateway serves everybody who reaches it. With keys, every request carries one, and a program belongs to
the tenant of the key that opened it. Tenants share the engines by weight.

examples:
  autellix key new --tenant acme
  autellix key new --tenant acme --days 90
  autellix key new --tenant acme --json
"""
NEW_EPILOG = """\
The key is shown once: only its SHA-256 is kept, from which nobody can find the key. Hand the key to the tenant, and put
the entry into the file of keys; the gateway reads it again by itself. To revoke a key, take its entry out.

examples:
  autellix key new --tenant acme
  autellix key new --tenant acme --days 90
"""


def register(subparsers: Subparsers) -> None:
    """Add `autellix key` with its verb."""
    parser = subparsers.add_parser(
        "key",
        help="make API keys for the tenants of a gateway",
        description="Make API keys for the tenants of a gateway.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, title="verbs")
    new = add_command(
        verbs,
        "new",
        summary="print a fresh key, and the entry for the file of keys",
        description="Print a fresh API key once, and the entry for the file of keys. Writes nothing.",
        epilog=NEW_EPILOG,
    )
    new.add_argument("--tenant", required=True, metavar="NAME", help="whose key it is: 1 to 24 of a-z 0-9 _ -")
    new.add_argument("--days", type=count, metavar="N", help="it expires after so many days (default: never)")
    new.set_defaults(run=run_new)


def run_new(args: argparse.Namespace) -> int:
    """Print a key; exit status 0.

    Raises:
        UsageError: the tenant's name is none.
    """
    from autellix_server.gateway.tenants.keys import digest_of, new_key
    from autellix_server.scheduling.shares import TENANT_NAME

    if not re.fullmatch(TENANT_NAME, args.tenant):
        raise UsageError(
            f"--tenant is {args.tenant!r}; write 1 to 24 characters of a-z 0-9 _ - that begin with a letter or digit"
        )
    key = new_key()
    digest = digest_of(key).hex()
    expires = _expiry(args.days)
    entry = f'[[keys]]\ntenant = "{args.tenant}"\nsha256 = "{digest}"\n'
    entry += f"expires = {expires}\n" if expires else ""
    if args.json:
        print_json({"tenant": args.tenant, "key": key, "sha256": digest, "expires": expires, "entry": entry})
    else:
        print(f"The key, shown this once, for {args.tenant}:\n\n{key}\n\nFor the file of keys:\n\n{entry}", end="")
    return 0


def _expiry(days: int | None) -> str | None:
    """Return the end of the day so many days from now, as TOML and JSON write it."""
    if days is None:
        return None
    try:
        day = datetime.now(UTC).date() + timedelta(days=days + 1)
    except OverflowError:
        raise UsageError(f"--days is {days}: that is after the end of the calendar") from None
    return f"{day.isoformat()}T00:00:00Z"
