"""What workers and the gateway say to each other. Pure.

A worker asks with ``{"call": n, "do": ...}`` and the gateway answers ``{"call": n, "did": ...}``; numbers are the
worker's, and one number stands for one call from its admission to its end. Without being asked the gateway interrupts
calls, ``{"call": n, "interrupt": ...}``, and tells what workers must read, ``{"reads": ...}``.
"""

from __future__ import annotations

import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.desk import CallRequest, Report
from autellix_server.gateway.fleet.estimated_bill import Usage
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.headers import CREDENTIALS, TRACE_HEADER
from autellix_server.gateway.refusal import Refused
from autellix_server.identity import IDENTITY_HEADERS

LINE_LIMIT = sys.maxsize
"""Bytes of the longest message: a client may name a model as long as its body, and must not end a worker by that."""

_TOLD_HEADERS = (*IDENTITY_HEADERS, *CREDENTIALS, TRACE_HEADER)

Message = dict[str, Any]


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as it goes over the socket."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def asked(request: CallRequest) -> Message:
    """Return a request; of its headers those that decide anything."""
    return {
        "path": request.path,
        "headers": told_headers(request.headers),
        "body_bytes": request.body_bytes,
        "model": request.model,
        "streamed": request.streamed,
        "session": request.session,
        "prefix": [block.hex() for block in request.prefix],
        "arrived_s": request.arrived_s,
    }


def told_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return those headers of a request that decide anything."""
    return {name: value for name in _TOLD_HEADERS if (value := headers.get(name)) is not None}


def request_of(message: Message) -> CallRequest:
    """Return what `asked` said."""
    return CallRequest(**{**message, "prefix": tuple(map(bytes.fromhex, message["prefix"]))})


def reported(report: Report) -> Message:
    """Return what became of a call."""
    return asdict(report)


def report_of(message: Message) -> Report:
    """Return what `ended` said."""
    usage = message["usage"]
    return Report(**{**message, "usage": None if usage is None else Usage(**usage)})


def told(address: EngineAddress) -> Message:
    """Return an address; of its secret only whether there is one, since stamps are made where it is known."""
    return {"name": address.name, "url": address.url, "key": address.key, "ours": address.secret is not None}


def address_of(message: Message) -> EngineAddress:
    """Return what `told` said; an engine of ours has a secret that nobody knows."""
    return EngineAddress(message["name"], message["url"], message["key"], b"" if message["ours"] else None)


def failure(error: Refused | Interruption) -> Message:
    """Return why a call is not served, or no longer."""
    if isinstance(error, Refused):
        names = ("status", "code", "kind", "retry_after_s")
        return {"refused": {"message": str(error), **{name: getattr(error, name) for name in names}}}
    return {"interrupt": {"message": str(error), "code": error.code, "retryable": error.retryable}}


def error_of(message: Message) -> Refused | Interruption | None:
    """Return what `failure` said, `None` for any other message."""
    if "refused" in message:
        said = dict(message["refused"])
        return Refused(said.pop("status"), said.pop("message"), said.pop("code"), **said)
    if "interrupt" in message:
        said = dict(message["interrupt"])
        return Interruption(said.pop("message"), said.pop("code"), **said)
    return None


def text(data: bytes | None) -> str | None:
    """Return bytes as a string of a message."""
    return None if data is None else b64encode(data).decode("ascii")


def data_of(said: str | None) -> bytes | None:
    """Return what `text` said."""
    return None if said is None else b64decode(said)
