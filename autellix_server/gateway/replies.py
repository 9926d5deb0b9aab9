"""Replies of the gateway itself, in the shape that OpenAI clients expect of errors."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

RETRY_AFTER_S = 2
"""What a client is told to wait when the engine is not there: about the time of a noticed death plus back-off."""


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


def engine_unavailable(detail: str) -> web.Response:
    """Return the reply to a call that no engine can take now."""
    return error_reply(
        503,
        f"the engine is not available: {detail}",
        "engine_unavailable",
        kind="server_error",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def error_event(message: str) -> bytes:
    """Return the event that ends a stream whose engine died.

    It is named ``error`` and typed, so that clients of the messages and responses APIs see it too. The blank line
    ahead of it closes an event that was cut short.
    """
    body = {"type": "error", **error_body(message, "server_error", "engine_died")}
    return b"\n\nevent: error\ndata: " + json.dumps(body).encode() + b"\n\n"
