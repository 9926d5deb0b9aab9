"""Replies of the gateway itself, in the shape that OpenAI clients expect of errors."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

from autellix_server.gateway.refusal import Refused


def error_body(message: str, kind: str, code: str) -> dict[str, object]:
    """Return an error object as OpenAI clients read it."""
    return {"error": {"message": message, "type": kind, "code": code}}


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


def error_event(message: str, code: str) -> bytes:
    """Return the event that ends a stream before its time.

    It is named ``error`` and typed, so that clients of the messages and responses APIs see it too. The blank line
    ahead of it closes an event that was cut short.
    """
    body = {"type": "error", **error_body(message, "server_error", code)}
    return b"\n\nevent: error\ndata: " + json.dumps(body).encode() + b"\n\n"
