"""A real HTTP server on loopback that speaks OpenAI's chat completions and answers by a rule."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

from aiohttp import web
from openai import AsyncOpenAI

import autellix_sdk as autellix
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER, CallContext, decode_call

Reply = str | None | web.Response
Rule = Callable[[list[dict[str, str]]], Reply | Awaitable[Reply]]
"""From the messages of a call to its reply: the content (`None` is sent as null), or a whole HTTP response.

Content is streamed, word by word, to who asks for a stream.
"""


class FakeOpenAI:
    """Serves ``/v1/chat/completions`` while its context is open.

    Attributes:
        url: base URL, once the context is open.
        bodies: request bodies, in order of arrival.
        contexts: who each request said it is, `None` without our headers.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.contexts: list[CallContext | None] = []

    @property
    def programs(self) -> list[str | None]:
        """The program of each request, `None` without one."""
        return [context and context.program for context in self.contexts]

    @property
    def parents(self) -> dict[str, tuple[str, ...] | None]:
        """The call graph of the one program that there was: the parents of each call, by its ID."""
        assert len(set(self.programs)) == 1
        return {context.call: context.parents for context in self.contexts if context}

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
        ours = request.headers.get(PROGRAM_HEADER), request.headers.get(CALL_HEADER)
        self.contexts.append(decode_call(*ours) if ours[0] and ours[1] else None)
        reply = self._rule(body["messages"])
        if inspect.isawaitable(reply):
            reply = await reply
        if isinstance(reply, web.Response):
            return reply
        return streamed(reply) if body.get("stream") else web.json_response(completion(reply))


@asynccontextmanager
async def connected(fake: FakeOpenAI, timeout_s: float = 20.0) -> AsyncIterator[AsyncOpenAI]:
    """A client of `fake` that does not retry, SDK switched on; what the SDK posts last still finds the server."""
    autellix.init(base_url=fake.url)
    try:
        async with AsyncOpenAI(base_url=fake.url, api_key="none", max_retries=0, timeout=timeout_s) as client:
            yield client
    finally:
        await asyncio.to_thread(autellix.shutdown)


def completion(content: str | None, **more: Any) -> dict[str, Any]:
    """A chat completion with one choice; `more` are further fields of its message."""
    message = {"role": "assistant", "content": content, **more}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def tool_call(name: str, **arguments: str) -> web.Response:
    """A chat completion that asks for a tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return web.json_response(completion(None, tool_calls=[{"id": "call_1", "type": "function", "function": function}]))


def streamed(content: str | None) -> web.Response:
    """A chat completion as server-sent events: one without content, one for each word, one without a choice."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "fake"}
    deltas = [
        {"role": "assistant", "content": content and ""},
        *({"content": f"{word} "} for word in (content or "").split(" ")),
    ]
    choices = [*([{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas), []]
    events = [f"data: {json.dumps({**head, 'choices': choice})}\n\n" for choice in choices]
    return web.Response(text="".join((*events, "data: [DONE]\n\n")), content_type="text/event-stream")
