"""What the gateway tells its engine with a call, signed with a secret that both share: a stamp, and who has ended.

The stamp says what a program had attained when its call arrived.

Header value: ``v1;b=<base service>;w=<base wait>;s=<0 or 1>;t=<tenant>;a=<tenant's service>;g=<weight>;k=<digest>``:
counts in whole microseconds, whether the program is this call alone, the tenant's name, weighted service and weight in
thousandths, and the first 32 hexadecimal digits of HMAC-SHA256 over both identity headers and what stands before. An
engine believes an account only from a stamp whose digest it can verify, so that no client can award
itself a better level.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from autellix_sdk.errors import ConfigurationError, WireError
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER, STAMP_HEADER, ProgramId
from autellix_server.scheduling.shares import NO_TENANT, TENANT_NAME, TenantStanding
from autellix_server.scheduling.table import Program

_log = logging.getLogger(__name__)

ENDED_HEADER = "x-autellix-ended"
"""Header with the programs that ended lately: a digest, a space and one line of JSON."""

MAX_ENDED = 4096
"""Programs that can wait for an engine to be told of them."""

_ENDED_AT_ONCE = 8
_STAMP = re.compile(
    rf"v1;b=(\d{{1,15}});w=(\d{{1,15}});s=([01]);t=({TENANT_NAME}|);a=(\d{{1,18}});g=([1-9]\d{{0,9}});k=([0-9a-f]{{32}})"
)
_WEIGHT_UNIT = 1000
_MIN_SECRET_BYTES = 16


@dataclass(frozen=True, slots=True)
class Stamp:
    """A program's account at the arrival of one of its calls, in microseconds.

    Attributes:
        base_service_us: attained service.
        base_wait_us: waiting time.
        single_call: the program is this call alone, made up for want of a name; none follows.
        tenant: where its tenant stands among the others; its weight is 0.001 or more.
    """

    base_service_us: int = 0
    base_wait_us: int = 0
    single_call: bool = False
    tenant: TenantStanding = NO_TENANT

    def encode(self, secret: bytes, program: str, call: str) -> str:
        """Sign the stamp for one call.

        Args:
            secret: shared by gateway and engine; at least 16 bytes.
            program, call: values of `wire.PROGRAM_HEADER` and `wire.CALL_HEADER` sent with it.
        """
        program_says = f"b={self.base_service_us};w={self.base_wait_us};s={int(self.single_call)}"
        weight = round(self.tenant.weight * _WEIGHT_UNIT)
        text = f"v1;{program_says};t={self.tenant.name};a={self.tenant.service_us};g={weight}"
        return f"{text};k={_signature(secret, program, call, text)}"


def decode_stamp(text: str, secret: bytes, program: str, call: str) -> Stamp:
    """Verify and decode a stamp.

    Raises:
        WireError: the stamp is malformed, or was not signed with `secret` for this call.
    """
    match = _STAMP.fullmatch(text)
    if match is None:
        raise WireError("stamp is malformed")
    base_service_us, base_wait_us, single_call, name, service_us, weight, digest = match.groups()
    if not hmac.compare_digest(digest, _signature(secret, program, call, text[: match.start(7) - len(";k=")])):
        raise WireError("stamp is not signed with this engine's secret")
    tenant = TenantStanding(name, int(service_us), int(weight) / _WEIGHT_UNIT)
    return Stamp(int(base_service_us), int(base_wait_us), single_call == "1", tenant)


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
    return parse_secret(text, "AUTELLIX_SECRET") if text else None


def parse_secret(text: str, variable: str) -> bytes:
    """Return a secret shared by gateway and engine.

    Args:
        text: hexadecimal digits.
        variable: where they were found, for the error.

    Raises:
        ConfigurationError: it is not hexadecimal, or too short.
    """
    with suppress(ValueError):
        secret = bytes.fromhex(text)
        if len(secret) >= _MIN_SECRET_BYTES:
            return secret
    raise ConfigurationError(f"{variable} must be at least {2 * _MIN_SECRET_BYTES} hexadecimal digits")


class EndedProgram(NamedTuple):
    """A program that ended, for policies that learn.

    Attributes:
        id: the program.
        program_class: what programs of its kind have in common, the name that the SDK gives; empty: not known.
        service_us: the service it attained in all.
    """

    id: ProgramId
    program_class: str
    service_us: int


class EndedPrograms:
    """Programs that ended and of which the engine has not been told. Beyond `MAX_ENDED` the oldest are dropped."""

    def __init__(self) -> None:
        self._rows: deque[EndedProgram] = deque(maxlen=MAX_ENDED)

    def add(self, row: Program) -> None:
        """Note a program that ended. Of one that was served nothing there is nothing to learn."""
        if row.service_us:
            self._rows.append(EndedProgram(row.id, row.name or "", row.service_us))

    def extend(self, programs: Sequence[EndedProgram]) -> None:
        """Note programs of which somebody else told."""
        self._rows.extend(programs)

    def take(self) -> tuple[EndedProgram, ...]:
        """Return a few of them, the oldest first, and forget these."""
        return tuple(self._rows.popleft() for _ in range(min(len(self._rows), _ENDED_AT_ONCE)))


def encode_ended(programs: Sequence[EndedProgram], secret: bytes) -> str:
    """Sign programs for `ENDED_HEADER`."""
    text = json.dumps(programs, separators=(",", ":"))
    return f"{_signature(secret, ENDED_HEADER, text)} {text}"


def decode_ended(text: str, secret: bytes) -> tuple[EndedProgram, ...]:
    """Verify and decode what `encode_ended` made.

    Raises:
        WireError: it was not signed with `secret`.
    """
    digest, _, listed = text.partition(" ")
    if not hmac.compare_digest(digest.encode(), _signature(secret, ENDED_HEADER, listed).encode()):
        raise WireError("list of ended programs is not signed with this engine's secret")
    return tuple(EndedProgram(*program) for program in json.loads(listed))


def believed_ended(headers: Mapping[str, str], secret: bytes | None) -> tuple[EndedProgram, ...]:
    """Return the ended programs that a gateway tells of with a call; none that are not to be believed, which is logged.

    Args:
        headers: request headers, in a mapping that ignores case.
        secret: shared with the gateway; `None` when there is no gateway, and nothing is believed.
    """
    text = headers.get(ENDED_HEADER)
    if text is None or secret is None:
        return ()
    try:
        return decode_ended(text, secret)
    except WireError as error:
        _log.warning("ended programs not believed: %s", error)
        return ()


def _signature(secret: bytes, *parts: str) -> str:
    return hmac.new(secret, "\n".join(parts).encode(), hashlib.sha256).hexdigest()[:32]
