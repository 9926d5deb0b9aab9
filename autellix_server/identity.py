"""Which program a call belongs to, read from its request. Pure; gateway and engine plugin share it.

In order: the two headers of `autellix_sdk.wire`; the program header alone, which is enough for a client that has no
SDK; the session headers that other tools send; ``session_id`` in the body; else the call is a program of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autellix_sdk.errors import WireError
from autellix_sdk.wire import (
    BILL_HEADER,
    CALL_HEADER,
    PROGRAM_HEADER,
    CallContext,
    CallId,
    ProgramId,
    check_program_id,
    decode_call,
)

SESSION_HEADERS = (
    "x-session-id",
    "x-dynamo-session-id",
    "x-smg-routing-key",
    "x-claude-code-session-id",
    "session_id",  # Codex
    "x-litellm-session-id",
    "helicone-session-id",
)
"""Headers by which other clients name a session, the first one present wins. Lower case."""

IDENTITY_HEADERS = (PROGRAM_HEADER, CALL_HEADER, *SESSION_HEADERS)
"""Every header that `identify` looks at. Lower case."""

SESSION_FIELD = "session_id"
"""Field of a JSON body by which other clients name a session, where no header does."""

NO_PROGRAM = "none"
"""`Identified.source` of a call that nothing identifies, or whose identity headers are malformed."""

_NO_SDK = "0"
_CALL_ID_LENGTH = 20


@dataclass(frozen=True, slots=True)
class Identified:
    """The identity of a call and where it was found.

    Attributes:
        context: who the call is; always complete, whatever the headers say.
        source: name of the header or field that decided, or `NO_PROGRAM`.
        error: what is wrong with our headers, or `None`. The call then runs as its own program.
    """

    context: CallContext
    source: str
    error: str | None = None

    @property
    def single_call(self) -> bool:
        """Whether the call is a program of its own, which ends with it."""
        return self.source == NO_PROGRAM


def identify(headers: Mapping[str, str], new_id: Callable[[], str], session: str | None = None) -> Identified:
    """Find out which program a call belongs to. Never raises: requests are untrusted input.

    Args:
        headers: request headers; names in lower case, or a mapping that ignores case.
        new_id: returns a fresh random ID of at least 20 lower-case hexadecimal digits, at most 64.
        session: what `session_in` found in the body; it counts where no header says anything.
    """
    program, call = headers.get(PROGRAM_HEADER), headers.get(CALL_HEADER)
    if program is not None or call is not None:
        try:
            if call is None:
                return Identified(_call_without_sdk(check_program_id(program or ""), new_id), PROGRAM_HEADER)
            return Identified(decode_call(program or "", call), CALL_HEADER)
        except WireError as error:
            return Identified(_own_program(new_id), NO_PROGRAM, str(error))
    for header in SESSION_HEADERS:
        if named := headers.get(header):
            return Identified(_call_without_sdk(_program_of_session(named), new_id), header)
    if session:
        return Identified(_call_without_sdk(_program_of_session(session), new_id), SESSION_FIELD)
    return Identified(_own_program(new_id), NO_PROGRAM)


def knows_us(headers: Mapping[str, str]) -> bool:
    """Return whether a client expects our comments in a stream: it sends a header of ours. Others may not skip them.

    Args:
        headers: request headers; names in lower case, or a mapping that ignores case.
    """
    return any(name in headers for name in (PROGRAM_HEADER, CALL_HEADER, BILL_HEADER))


def session_in(body: bytes) -> str | None:
    """Return the session that a JSON body names, `None` if it names none or is no JSON object."""
    # Most bodies have no such field, and finding that out must not cost a parse.
    if b'"session_id"' not in body:
        return None
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    session = parsed.get(SESSION_FIELD) if isinstance(parsed, dict) else None
    return session if isinstance(session, str) else None


def _own_program(new_id: Callable[[], str]) -> CallContext:
    return CallContext(ProgramId(new_id()), salt=_NO_SDK, thread=0, call=CallId("0"))


def _call_without_sdk(program: ProgramId, new_id: Callable[[], str]) -> CallContext:
    # Without the SDK the call graph is unknown: one thread, and every call joins all earlier ones.
    return CallContext(program, salt=_NO_SDK, thread=0, call=CallId(new_id()[:_CALL_ID_LENGTH]), parents=None)


def _program_of_session(session: str) -> ProgramId:
    """Keep a session ID that is a valid program ID, so that its owner can look it up; hash any other."""
    try:
        return check_program_id(session)
    except WireError:
        return ProgramId("s-" + hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()[:32])
