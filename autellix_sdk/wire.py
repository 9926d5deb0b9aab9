"""The wire contract: header names, their grammar and their limits. Client, gateway and engine share this file.

Request headers::

    x-autellix-program: <program>
    x-autellix-call:    v1;s=<salt>;t=<thread>;c=<call>;p=<parents>;r=<retry>;n=<name>

Grammar (ABNF-like; every field at most once, order free after ``v1``, unknown fields ignored)::

    program = 1*64( ALPHA / DIGIT / "." / "_" / "-" )
    salt    = 1*8( DIGIT / "a"-"z" )                ; tells client processes of one program apart
    thread  = 1*6DIGIT                              ; chain in the call graph
    call    = 1*20( DIGIT / "a"-"z" / "." )         ; unique within program and salt
    parents = "*" / [ call *( "," call ) ]          ; at most 512 bytes; "*" joins all calls; empty = root
    retry   = 1*3DIGIT                              ; 0 = first attempt; retries repeat the call ID
    name    = percent-encoded UTF-8, at most 128 bytes

``s``, ``t`` and ``c`` are required; ``p`` defaults to empty (a root call), ``r`` to 0, ``n`` to none. The whole
header is at most 1024 bytes. A parent made by another process is written ``salt.call``.

Between processes of a user's own, in headers or in a job; taken off requests to the model server by processes that
write or read it, and at redirects to another origin by all::

    x-autellix-continue: v1;i=<program>;p=<parents>;n=<name>

``i`` is required; every parent is written ``salt.call``.

Response: the `BILL_HEADER`, or in a stream an SSE comment that starts with `BILL_COMMENT` (see `autellix_sdk.bill`).
Gateway to engine: `STAMP_HEADER` (see `autellix_server.stamp`); copies sent by clients are stripped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NewType
from urllib.parse import quote, unquote

from autellix_sdk.errors import WireError

ProgramId = NewType("ProgramId", str)
CallId = NewType("CallId", str)

PROGRAM_HEADER = "x-autellix-program"
CALL_HEADER = "x-autellix-call"
CONTINUE_HEADER = "x-autellix-continue"
STAMP_HEADER = "x-autellix-stamp"
BILL_HEADER = "x-autellix-bill"
BILL_COMMENT = b": autellix "
"""Start of the SSE comment line that carries the bill, sent just before ``data: [DONE]``."""

PROGRAM_PATTERN = r"[A-Za-z0-9._-]{1,64}"
"""Regular expression of a program ID, whole."""

MAX_HEADER_BYTES = 1024
MAX_PARENTS_BYTES = 512
MAX_NAME_BYTES = 128
JOINS_ALL = "*"
_MAX_RETRY = 999

_VERSION = "v1"
_PROGRAM = re.compile(PROGRAM_PATTERN)
_SALT = re.compile(r"[0-9a-z]{1,8}")
_CALL = re.compile(r"[0-9a-z.]{1,20}")
_SALTED_CALL = re.compile(r"(?=.{1,20}\Z)[0-9a-z]{1,8}\.[0-9]+\.[0-9]+")
_THREAD = re.compile(r"[0-9]{1,6}")
_RETRY = re.compile(r"[0-9]{1,3}")
_NAME = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})*")


@dataclass(frozen=True, slots=True)
class CallContext:
    """Who a call is: its program, thread, place in the call graph and attempt.

    Attributes:
        program: program ID, 1 to 64 characters of ``[A-Za-z0-9._-]``.
        salt: distinguishes client processes that share a program (fork, process pools).
        thread: number of the chain in the call graph, 0 or more.
        call: call ID, unique within program and salt.
        parents: calls this one waited for; empty for a root call; `None` when it joins every earlier call.
        retry: 0 for the first attempt, at most 999 on the wire; a retry keeps the call ID.
        name: program name given by the user, or `None`. At most 128 bytes once percent-encoded.
    """

    program: ProgramId
    salt: str
    thread: int
    call: CallId
    parents: tuple[CallId, ...] | None = ()
    retry: int = 0
    name: str | None = None


def check_program_id(text: str) -> ProgramId:
    """Return `text` as a program ID, or raise `WireError` naming what is wrong with it."""
    if _PROGRAM.fullmatch(text) is None:
        raise WireError(f"program ID {_shown(text)} is not 1 to 64 characters of A-Z a-z 0-9 . _ -")
    return ProgramId(text)


def encode_name(name: str) -> str:
    """Percent-encode a program name; raise `WireError` when it is longer than 128 bytes encoded."""
    encoded = quote(name, safe="", errors="replace")
    if len(encoded) > MAX_NAME_BYTES:
        raise WireError(
            f"program name {_shown(name)} is {len(encoded)} bytes when percent-encoded; the limit is {MAX_NAME_BYTES}"
        )
    return encoded


def encode_parents(parents: tuple[CallId, ...] | None) -> str:
    """Encode parents; more than 512 bytes of them become the joins-all marker ``*``, as does a marker among them."""
    if parents is None:
        return JOINS_ALL
    text = ",".join(parents)
    return text if len(text) <= MAX_PARENTS_BYTES and JOINS_ALL not in text else JOINS_ALL


def encode_call(context: CallContext) -> str:
    """Encode the value of `CALL_HEADER`. Trusts its fields: scopes and call IDs are checked where they are made."""
    name_field = f";n={encode_name(context.name)}" if context.name else ""
    return format_call(context.salt, context.thread, context.call, context.parents, context.retry, name_field)


def format_call(
    salt: str, thread: int, call: CallId, parents: tuple[CallId, ...] | None, retry: int, name_field: str
) -> str:
    """Write the value of `CALL_HEADER` from its parts, for callers that encode a program's name once for many calls.

    Args:
        salt, thread, call, parents, retry: as in `CallContext`.
        name_field: ``;n=`` and the encoded name, or empty.
    """
    parents_field = f";p={encode_parents(parents)}" if parents or parents is None else ""
    retry_field = f";r={min(retry, _MAX_RETRY)}" if retry else ""
    return f"{_VERSION};s={salt};t={thread};c={call}{parents_field}{retry_field}{name_field}"


def decode_call(program: str, call: str) -> CallContext:
    """Decode both request headers.

    Args:
        program: value of `PROGRAM_HEADER`.
        call: value of `CALL_HEADER`.

    Raises:
        WireError: either header breaks the grammar or a limit; the message names the field, never more than the
            first characters of its value.
    """
    program_id = check_program_id(program)
    if len(call) > MAX_HEADER_BYTES:
        raise WireError(f"{CALL_HEADER} is {len(call)} bytes; the limit is {MAX_HEADER_BYTES}")
    fields = _split(CALL_HEADER, call)
    return CallContext(
        program=program_id,
        salt=_field(CALL_HEADER, fields, "s", _SALT),
        thread=int(_field(CALL_HEADER, fields, "t", _THREAD)),
        call=CallId(_field(CALL_HEADER, fields, "c", _CALL)),
        parents=_parents(CALL_HEADER, fields, _CALL),
        retry=int(_field(CALL_HEADER, fields, "r", _RETRY, default="0")),
        name=_name(CALL_HEADER, fields),
    )


def format_continue(program: ProgramId, parents: tuple[CallId, ...], name_field: str) -> str:
    """Write the value of `CONTINUE_HEADER`.

    Args:
        program: program ID.
        parents: calls made so far that the continuation depends on, each as ``salt.call``.
        name_field: ``;n=`` and the encoded name, or empty.
    """
    return f"{_VERSION};i={program};p={encode_parents(parents)}{name_field}"


def decode_continue(text: str) -> tuple[ProgramId, tuple[CallId, ...] | None, str | None]:
    """Decode the value of `CONTINUE_HEADER`: program ID, parents (`None` joins every earlier call) and name.

    Raises:
        WireError: the value breaks the grammar or a limit.
    """
    if len(text) > MAX_HEADER_BYTES:
        raise WireError(f"{CONTINUE_HEADER} is {len(text)} bytes; the limit is {MAX_HEADER_BYTES}")
    fields = _split(CONTINUE_HEADER, text)
    program = ProgramId(_field(CONTINUE_HEADER, fields, "i", _PROGRAM))
    return program, _parents(CONTINUE_HEADER, fields, _SALTED_CALL), _name(CONTINUE_HEADER, fields)


def _split(header: str, text: str) -> Mapping[str, str]:
    version, *parts = text.split(";")
    if version != _VERSION:
        raise WireError(f"{header} starts with {_shown(version)}, not {_VERSION}")
    fields: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or key in fields:
            raise WireError(f"{header} has a malformed or repeated field {_shown(part)}")
        fields[key] = value
    return fields


def _field(
    header: str, fields: Mapping[str, str], key: str, pattern: re.Pattern[str], default: str | None = None
) -> str:
    value = fields.get(key, default)
    if value is None or pattern.fullmatch(value) is None:
        raise WireError(f"field {key} of {header} is {_shown(value)}; it must match {pattern.pattern}")
    return value


def _parents(header: str, fields: Mapping[str, str], pattern: re.Pattern[str]) -> tuple[CallId, ...] | None:
    text = fields.get("p", "")
    if text == JOINS_ALL:
        return None
    if not text:
        return ()
    if len(text) > MAX_PARENTS_BYTES:
        raise WireError(f"field p of {header} is {len(text)} bytes; the limit is {MAX_PARENTS_BYTES}")
    parents = text.split(",")
    if not all(map(pattern.fullmatch, parents)):
        raise WireError(f"field p of {header} is {_shown(text)}; each parent must match {pattern.pattern}")
    return tuple(map(CallId, parents))


def _name(header: str, fields: Mapping[str, str]) -> str | None:
    text = fields.get("n", "")
    try:
        if _NAME.fullmatch(text) is None or len(text) > MAX_NAME_BYTES:
            raise ValueError(text)
        return unquote(text, errors="strict") or None
    except ValueError:
        raise WireError(f"field n of {header} is not percent-encoded UTF-8 of at most {MAX_NAME_BYTES} bytes") from None


def _shown(value: str | None) -> str:
    return "missing" if value is None else ascii(value if len(value) <= 40 else value[:40] + "...")
