"""A real HTTP server on loopback that speaks OpenAI's chat completions and answers by a rule."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

from aiohttp import web
from openai import AsyncOpenAI

import autellix_sdk as autellix
from autellix_sdk.wire import PROGRAM_HEADER

Reply = str | None | web.Response
Rule = Callable[[list[dict[str, str]]], Reply | Awaitable[Reply]]
"""From the messages of a call to its reply: the content (`None` is sent as null), or a whole HTTP response."""


class FakeOpenAI:
    """Serves ``/v1/chat/completions`` while its context is open.

    Attributes:
        url: base URL, once the context is open.
        bodies: request bodies, in order of arrival.
        programs: the program header of each request, `None` without one.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.programs: list[str | None] = []

    async def __aenter__(self) -> FakeOpenAI:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.programs.append(request.headers.get(PROGRAM_HEADER))
        reply = self._rule(body["messages"])
        if inspect.isawaitable(reply):
            reply = await reply
        return reply if isinstance(reply, web.Response) else web.json_response(completion(reply))


@asynccontextmanager
async def connected(fake: FakeOpenAI, timeout_s: float = 20.0) -> AsyncIterator[AsyncOpenAI]:
    """A client of `fake` that does not retry, SDK switched on; what the SDK posts last still finds the server."""
    autellix.init(base_url=fake.url)
    try:
        async with AsyncOpenAI(base_url=fake.url, api_key="none", max_retries=0, timeout=timeout_s) as client:
            yield client
    finally:
        await asyncio.to_thread(autellix.shutdown)


def completion(content: str | None) -> dict[str, Any]:
    """A chat completion with one choice."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}},
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
