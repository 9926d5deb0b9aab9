"""Replies of the gateway itself, in the shape that OpenAI clients expect of errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from aiohttp import hdrs, web
from pydantic import BaseModel

from autellix_server.gateway.refusal import Refused


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What is wrong: `message` for people, `type` and `code` for programs."""

    message: str
    type: str
    code: str


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """Body of a refusal, as OpenAI clients read it."""

    error: ErrorDetails


def error_body(message: str, kind: str, code: str) -> dict[str, object]:
    """Return an `ErrorBody` as an object of JSON."""
    return asdict(ErrorBody(ErrorDetails(message, kind, code)))


def model_reply(body: BaseModel, status: int = 200) -> web.Response:
    """Return a reply with a model as its JSON body."""
    return web.Response(text=body.model_dump_json(), content_type="application/json", status=status)


def error_reply(
    status: int,
    message: str,
    code: str,
    *,
    kind: str = "invalid_request_error",
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return an error response with a JSON body."""
    return web.json_response(error_body(message, kind, code), status=status, headers=headers)


def refused_reply(refusal: Refused) -> web.Response:
    """Return the reply to a call that is not served."""
    headers = None if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
    return error_reply(refusal.status, str(refusal), refusal.code, kind=refusal.kind, headers=headers)


def http_error_reply(error: web.HTTPException) -> web.Response:
    """Return the reply to a request that ended with an error of aiohttp's."""
    headers = {str(hdrs.ALLOW): error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else None
    code = error.reason.lower().replace(" ", "_")
    return error_reply(error.status, error.text or error.reason, code, headers=headers)


def error_event(message: str, code: str) -> bytes:
    """Return the event that ends a stream before its time.

    It is named ``error`` and typed, so that clients of the messages and responses APIs see it too. The blank line
    ahead of it closes an event that was cut short.
    """
    body = {"type": "error", **error_body(message, "server_error", code)}
    return b"\n\nevent: error\ndata: " + json.dumps(body).encode() + b"\n\n"
