"""The real OpenAI client through the gateway: plain, streamed, synchronous, asynchronous, and in trouble."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from fake_engine import WORDS, FakeEngine, Gateway, Seen, identity
from openai import APIError, AsyncOpenAI, InternalServerError, OpenAI

SENTENCE = "".join(WORDS)
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "to be?"}]}


async def test_asynchronous_calls(gateway: Gateway) -> None:
    """Plain with its bill in a header, streamed with nothing in the way of the last word."""
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="mine") as client:
        raw = await client.chat.completions.with_raw_response.create(**ASK, extra_headers=identity())
        assert raw.parse().choices[0].message.content == SENTENCE
        assert '"program":"p1"' in raw.headers["x-autellix-bill"]
        stream = await client.chat.completions.create(**ASK, stream=True, extra_headers=identity(call="0.1"))
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == SENTENCE
        assert [model.id async for model in client.models.list()] == ["tiny"]
    assert gateway.program("p1").completed == 2
    assert gateway.program("p1").output_tokens == 8


async def test_synchronous_calls(gateway: Gateway) -> None:
    """The same from a thread."""

    def work() -> list[str]:
        with OpenAI(base_url=f"{gateway.url}/v1", api_key="mine") as client:
            plain = client.chat.completions.create(**ASK).choices[0].message.content or ""
            stream = client.chat.completions.create(**ASK, stream=True)
            return [plain, "".join(chunk.choices[0].delta.content or "" for chunk in stream)]

    assert await asyncio.to_thread(work) == [SENTENCE, SENTENCE]


async def test_a_death_within_a_stream_raises_in_the_client(gateway: Gateway, engine: FakeEngine) -> None:
    """The user's code sees an error where the words stop."""
    engine.behave = engine.die_within_stream
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="mine") as client:
        stream = await client.chat.completions.create(**ASK, stream=True)
        with pytest.raises(APIError, match="the engine died before the answer was complete"):
            [chunk async for chunk in stream]


async def test_an_engine_that_is_not_there_is_an_error_the_client_knows(gateway: Gateway, engine: FakeEngine) -> None:
    """Status, message and code arrive; the client's own retries are its affair."""
    engine.behave = engine.die_at_once
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="mine", max_retries=0) as client:
        with pytest.raises(InternalServerError) as caught:
            await client.chat.completions.create(**ASK)
    assert (caught.value.status_code, caught.value.code) == (503, "engine_unavailable")


async def test_closing_a_stream_early_aborts_it_in_the_engine(gateway: Gateway, engine: FakeEngine) -> None:
    """An agent that has read enough does not keep the engine busy."""
    engine.behave = engine.stay_silent
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="mine") as client:
        stream = await client.chat.completions.create(**ASK, stream=True)
        await anext(stream)
        await stream.close()
        await asyncio.wait_for(engine.left.wait(), 5)


async def test_many_calls_at_once_keep_their_programs_apart(gateway: Gateway, engine: FakeEngine) -> None:
    """Fifty calls of five programs, all in flight together."""
    together = asyncio.Barrier(50)

    async def behave(request: web.Request, seen: Seen) -> web.StreamResponse:
        await together.wait()
        return await engine.answer(request, seen)

    engine.behave = behave
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="mine") as client:
        names = [identity(f"p{number % 5}", f"{number}.0") for number in range(50)]
        await asyncio.gather(*(client.chat.completions.create(**ASK, extra_headers=name) for name in names))
    assert [gateway.program(f"p{number}").completed for number in range(5)] == [10] * 5
