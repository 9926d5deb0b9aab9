"""Answers of engines to what the gateway asks by itself: read whole, unless they are too long to be meant."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

import aiohttp
from aiohttp import hdrs

from autellix_server.engine.supervisor import EngineAddress

MAX_ANSWER_BYTES = 4 << 20
"""A thousand models with long names are a tenth of it."""


def ask(
    session: aiohttp.ClientSession, address: EngineAddress, path: str
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """Return the request for a path of an engine, with its key. Not followed elsewhere: calls are not either."""
    headers: Mapping[str, str] = {hdrs.AUTHORIZATION: f"Bearer {address.key}"} if address.key else {}
    return session.get(address.url + path, headers=headers, allow_redirects=False)


async def read_answer(reply: aiohttp.ClientResponse) -> bytes:
    """Return the body of an answer.

    Raises:
        aiohttp.ClientPayloadError: it is longer than `MAX_ANSWER_BYTES`.
    """
    body = bytearray()
    async for chunk in reply.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError(f"{reply.url.path} answers more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


async def read_json(reply: aiohttp.ClientResponse) -> object:
    """Return the JSON of an answer.

    Raises:
        aiohttp.ClientPayloadError: it is longer than `MAX_ANSWER_BYTES`.
        ValueError: it is none.
    """
    try:
        found: object = json.loads(await read_answer(reply))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return found
