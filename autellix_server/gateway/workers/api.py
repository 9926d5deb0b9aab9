"""What a worker does not answer itself goes to the gateway, on a socket in the file system."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web
from yarl import URL

from autellix_server.gateway.headers import HOP_BY_HOP, NEVER_ADDED, forwarded
from autellix_server.gateway.refusal import unavailable
from autellix_server.gateway.replies import refused_reply

_OWN_LENGTH = HOP_BY_HOP | {"content-length"}


class ApiForwarder:
    """Sends requests on to the gateway's own application. Lives on the event loop, within `lifetime`.

    Args:
        path: of the socket.
    """

    _session: aiohttp.ClientSession

    def __init__(self, path: str) -> None:
        self._path = path

    async def lifetime(self, app: web.Application) -> AsyncIterator[None]:
        """Hold the connections while the application runs; for its `cleanup_ctx`."""
        async with aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self._path),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=NEVER_ADDED,
            auto_decompress=False,
        ) as self._session:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request as the gateway does."""
        try:
            async with self._session.request(
                request.method,
                URL("http://gateway" + request.raw_path, encoded=True),
                headers=forwarded(request.headers, _OWN_LENGTH),
                data=await request.read() or None,
                allow_redirects=False,
            ) as reply:
                headers = forwarded(reply.headers, _OWN_LENGTH)
                return web.Response(status=reply.status, headers=headers, body=await reply.read())
        except (aiohttp.ClientError, OSError):
            return refused_reply(unavailable("the gateway has stopped"))
