"""Speaking dialects on a request of httpx or httpx2, and taking every word of it back.

What a dialect says is bound to the backend as our own headers are: a request that is sent on to another host, or sent
once more, is put back to what the user made of it.
"""

from __future__ import annotations

import sys
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from autellix_sdk._dialects import Dialect
from autellix_sdk._faults import faults
from autellix_sdk._ledger import Flight
from autellix_sdk._programs import ProgramRecord
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER, CallContext

_MAX_BODY_BYTES = 1 << 20
"""Parsing and writing a larger body would hold up the event loop for too long."""

_SPOKEN = "autellix.dialects"
"""Request extension that holds what dialects changed; redirects copy it, transports ignore it."""


@dataclass(slots=True)
class _Spoken:
    """What dialects changed in a request.

    Attributes:
        headers: the headers they added.
        stream: the body they put in; `None` while they have left the body alone.
        body: the body as the user made it, where they have not.
    """

    headers: dict[str, str]
    stream: Any = None
    body: bytes = b""


def speak(dialects: tuple[Dialect, ...], context: CallContext, taken: Container[str]) -> dict[str, str]:
    """Return the headers of a call in every dialect but those that the user speaks.

    Args:
        dialects: the dialects, in order.
        context: the call.
        taken: names of the headers that the user has set. One is enough for the whole dialect to be theirs: half of an
            identity of ours beside half of one of theirs would be wrong on both sides.
    """
    spoken: dict[str, str] = {}
    for dialect in dialects:
        if not any(name in taken for name in dialect.names):
            spoken |= dialect.headers(context)
    return spoken


def call_headers(
    program: ProgramRecord, flight: Flight, dialects: tuple[Dialect, ...], taken: Container[str] = ()
) -> dict[str, str]:
    """Return all headers of a call: our two, and what dialects add.

    Args:
        program: the call's.
        flight: the call.
        dialects, taken: as for `speak`.
    """
    ours: dict[str, str] = {PROGRAM_HEADER: program.id, CALL_HEADER: program.call_header(flight)}
    return ours | speak(dialects, program.context(flight), taken) if dialects else ours


def translate(request: Any, dialects: tuple[Dialect, ...], context: CallContext) -> None:
    """Say what our own headers say in every dialect too.

    Args:
        request: an httpx or httpx2 request that no dialect was spoken on, or on which it was taken back.
        dialects: the dialects, in order.
        context: the call that the request makes.
    """
    spoken = request.extensions[_SPOKEN] = _Spoken(speak(dialects, context, request.headers))
    request.headers.update(spoken.headers)
    for dialect in dialects:
        if dialect.body is not None and (body := _whole_body(request)):
            try:
                written = dialect.body(context, body)
            except (ValueError, RecursionError) as error:
                faults.record("a request body cannot carry a dialect and goes out as it is", error)
            else:
                if written is not body:
                    spoken.body = spoken.body or body
                    spoken.stream = _set_body(request, written)


def take_back(request: Any) -> None:
    """Undo `translate`, on the request it was done to or on the one that a redirect made of it."""
    spoken: _Spoken | None = request.extensions.pop(_SPOKEN, None)
    if spoken is None:
        return
    for name, value in spoken.headers.items():
        if request.headers.get(name) == value:
            del request.headers[name]
    if spoken.stream is not None and request.stream is spoken.stream:
        _set_body(request, spoken.body)


def _whole_body(request: Any) -> bytes:
    """Return the body if it is JSON, in memory and not too large; else nothing, and count it unless there is none."""
    stream = request.stream
    in_memory: Any = getattr(sys.modules.get(type(stream).__module__.partition(".")[0]), "ByteStream", ())
    if not isinstance(stream, in_memory):
        faults.record("a request body is sent in pieces, carries no dialect and goes out as it is")
        return b""
    body = b"".join(stream)
    if len(body) > _MAX_BODY_BYTES:
        faults.record("a request body is larger than 1 MiB, carries no dialect and goes out as it is")
        return b""
    if body and "json" not in request.headers.get("content-type", ""):
        faults.record("a request body is not JSON, carries no dialect and goes out as it is")
        return b""
    return body


def _set_body(request: Any, body: bytes) -> Any:
    """Replace the body, which is in memory, and return the stream that now holds it."""
    stream = request.stream = type(request.stream)(body)
    # Transports may send the content rather than the stream, so what `read` has kept of the old one has to go.
    vars(request).pop("_content", None)
    request.read()
    if "content-length" in request.headers:
        request.headers["content-length"] = str(len(body))
    return stream
