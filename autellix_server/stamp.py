"""The gateway's stamp: what a program had attained when its call arrived, signed with a secret shared with the engine.

Header value: ``v1;b=<base service>;w=<base wait>;d=<tenant debt>;k=<digest>``, three counts in whole microseconds and
the first 32 hexadecimal digits of HMAC-SHA256 over both identity headers and the counts. An engine believes base
service only from a stamp whose digest it can verify, so that no client can award itself a better level.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from autellix_sdk.errors import ConfigurationError, WireError
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER, STAMP_HEADER

_log = logging.getLogger(__name__)

_STAMP = re.compile(r"v1;b=(\d{1,15});w=(\d{1,15});d=(\d{1,15});k=([0-9a-f]{32})")
_MIN_SECRET_BYTES = 16


@dataclass(frozen=True, slots=True)
class Stamp:
    """A program's account at the arrival of one of its calls, in microseconds.

    Attributes:
        base_service_us: attained service.
        base_wait_us: waiting time.
        tenant_debt_us: service added to the base because the tenant is ahead of its share.
    """

    base_service_us: int = 0
    base_wait_us: int = 0
    tenant_debt_us: int = 0

    def encode(self, secret: bytes, program: str, call: str) -> str:
        """Sign the stamp for one call.

        Args:
            secret: shared by gateway and engine; at least 16 bytes.
            program, call: values of `wire.PROGRAM_HEADER` and `wire.CALL_HEADER` sent with it.
        """
        counts = f"v1;b={self.base_service_us};w={self.base_wait_us};d={self.tenant_debt_us}"
        return f"{counts};k={_digest(secret, program, call, counts)}"


def decode_stamp(text: str, secret: bytes, program: str, call: str) -> Stamp:
    """Verify and decode a stamp.

    Raises:
        WireError: the stamp is malformed, or was not signed with `secret` for this call.
    """
    match = _STAMP.fullmatch(text)
    if match is None:
        raise WireError("stamp is malformed")
    *counts, digest = match.groups()
    if not hmac.compare_digest(digest, _digest(secret, program, call, text[: match.start(4) - len(";k=")])):
        raise WireError("stamp is not signed with this engine's secret")
    return Stamp(*map(int, counts))


def believed_stamp(headers: Mapping[str, str], secret: bytes | None) -> Stamp | None:
    """Return the stamp of a call; `None` when it has none, or one that is not to be believed, which is logged.

    Args:
        headers: request headers, in a mapping that ignores case.
        secret: shared with the gateway; `None` when there is no gateway, and nothing is believed.
    """
    text = headers.get(STAMP_HEADER)
    if text is None or secret is None:
        return None
    try:
        return decode_stamp(text, secret, headers.get(PROGRAM_HEADER, ""), headers.get(CALL_HEADER, ""))
    except WireError as error:
        _log.warning("stamp not believed: %s", error)
        return None


def read_secret(environ: Mapping[str, str]) -> bytes | None:
    """Return the secret shared by gateway and engine from ``AUTELLIX_SECRET``; `None` when it is unset or empty.

    Raises:
        ConfigurationError: it is not hexadecimal, or too short.
    """
    text = environ.get("AUTELLIX_SECRET")
    if not text:
        return None
    with suppress(ValueError):
        secret = bytes.fromhex(text)
        if len(secret) >= _MIN_SECRET_BYTES:
            return secret
    raise ConfigurationError(f"AUTELLIX_SECRET must be at least {2 * _MIN_SECRET_BYTES} hexadecimal digits")


def _digest(secret: bytes, program: str, call: str, counts: str) -> str:
    message = "\n".join((program, call, counts)).encode()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()[:32]
