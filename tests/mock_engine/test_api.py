"""The OpenAI API as the real clients see it, and what SGLang tells about itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from fake_engine import identity
from mock_world import JumpClock, Mock, running_mock, until
from openai import AsyncOpenAI, BadRequestError, OpenAI

from autellix_sdk.bill import CallBill, decode_bill
from autellix_sdk.wire import BILL_COMMENT
from autellix_server.engine.limits import EngineLimits

ASK: dict[str, Any] = {"model": "mine", "messages": [{"role": "user", "content": "how are you?"}]}
EXACT: dict[str, Any] = {"max_tokens": 20, "extra_body": {"ignore_eos": True}}


@pytest.fixture
async def mock() -> AsyncIterator[Mock]:
    """A quick mock engine."""
    async with running_mock() as running:
        yield running


@pytest.fixture
async def client(mock: Mock) -> AsyncIterator[AsyncOpenAI]:
    """The real client, which does not try again."""
    async with AsyncOpenAI(base_url=f"{mock.url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def test_a_chat(client: AsyncOpenAI) -> None:
    """Words, usage and the reason of the end; the same again for the same request, others for another seed."""
    first = await client.chat.completions.create(**ASK, **EXACT)
    again = await client.chat.completions.create(**ASK, **EXACT)
    other = await client.chat.completions.create(**ASK, **EXACT, seed=7)
    text = first.choices[0].message.content
    assert text is not None
    assert len(text.split()) == 20
    assert (first.model, first.choices[0].finish_reason) == ("mine", "length")
    assert first.usage is not None
    assert (first.usage.completion_tokens, first.usage.total_tokens) == (20, first.usage.prompt_tokens + 20)
    assert again.choices[0].message.content == text != other.choices[0].message.content


async def test_a_streamed_chat_says_the_same_a_token_at_a_time(client: AsyncOpenAI) -> None:
    """Role first, one event a token, the reason last, then usage if it was asked for."""
    whole = await client.chat.completions.create(**ASK, **EXACT)
    stream = await client.chat.completions.create(**ASK, **EXACT, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert deltas[0].role == "assistant"
    assert [bool(delta.content) for delta in deltas] == [False, *([True] * 20), False]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)


async def test_completions_of_text_and_of_token_ids(client: AsyncOpenAI) -> None:
    """Prompts count as they are; a list of one prompt is one prompt."""
    for prompt, tokens in ((" about above across", 3), ([5, 6, 7, 8], 4), (["about above"], 2), ([[1, 2]], 2)):
        reply = await client.completions.create(model="", prompt=prompt, max_tokens=5, extra_body={"ignore_eos": True})
        assert reply.usage is not None
        assert (reply.usage.prompt_tokens, len(reply.choices[0].text.split())) == (tokens, 5)
        assert reply.model == "mock"
    stream = await client.completions.create(model="", prompt="about", max_tokens=3, stream=True)
    assert len("".join([chunk.choices[0].text async for chunk in stream]).split()) <= 3


def test_the_synchronous_client() -> None:
    """From a thread, as scripts do."""

    def work(url: str) -> list[str]:
        with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            return [model.id for model in client.models.list()]

    async def serve() -> list[str]:
        async with running_mock(model_name="small") as mock:
            return await asyncio.to_thread(work, mock.url)

    assert asyncio.run(serve()) == ["small"]


async def test_answers_end_by_themselves_within_their_limits(client: AsyncOpenAI) -> None:
    """Of many some stop before a high limit; `min_tokens` is the least, the limit the most."""
    replies = await asyncio.gather(
        *(
            client.chat.completions.create(
                **ASK, max_completion_tokens=200, seed=seed, extra_body={"min_tokens": 30}, timeout=20
            )
            for seed in range(20)
        )
    )
    lengths = [reply.usage.completion_tokens for reply in replies if reply.usage is not None]
    reasons = {reply.choices[0].finish_reason for reply in replies}
    assert all(30 <= length <= 200 for length in lengths)
    assert reasons == {"stop", "length"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 2}, "n: 2 answers"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "reads text only"),
        ({"max_tokens": 50_000, "extra_body": {"ignore_eos": True}}, "that this engine holds"),
    ],
)
async def test_what_cannot_be_answered_is_refused_in_a_sentence(
    client: AsyncOpenAI, change: dict[str, Any], said: str
) -> None:
    """Status 400, as the client expects it; the field is named."""
    with pytest.raises(BadRequestError, match=said):
        await client.chat.completions.create(**{**ASK, **change})


async def test_bodies_that_are_no_requests(mock: Mock) -> None:
    """Broken JSON, several prompts, an empty prompt, a path that is not there."""
    assert (await mock.json("POST", "/v1/chat/completions", data=b"{"))[0] == 400
    for prompt in (["a", "b"], "", [-1]):
        assert (await mock.json("POST", "/v1/completions", json={"prompt": prompt}))[0] == 400
    assert (await mock.json("GET", "/v1/nowhere"))[0] == 404
    assert (await mock.json("PUT", "/v1/completions"))[0] == 405


async def test_a_conversation_finds_its_beginning_in_the_cache(client: AsyncOpenAI) -> None:
    """All of the first turn and its answer; another program finds nothing."""
    headers, stranger = identity("p1", "0.0"), identity("p2", "0.0")
    first = await client.chat.completions.create(**ASK, **EXACT, extra_headers=headers)
    assert first.usage is not None
    answer = first.choices[0].message.content
    turns = [*ASK["messages"], {"role": "assistant", "content": answer}, {"role": "user", "content": "and now?"}]
    for extra, cached in ((identity("p1", "0.1"), first.usage.total_tokens), (stranger, 0)):
        reply = await client.chat.completions.create(model="", messages=turns, **EXACT, extra_headers=extra)
        assert reply.usage is not None
        assert reply.usage.prompt_tokens_details is not None
        assert reply.usage.prompt_tokens_details.cached_tokens == cached


async def test_the_cache_can_be_flushed_between_calls(mock: Mock, client: AsyncOpenAI) -> None:
    """The same prompt again is computed again."""
    for _ in range(2):
        reply = await client.chat.completions.create(**ASK, **EXACT, extra_headers=identity())
        assert reply.usage is not None
        assert reply.usage.prompt_tokens_details is not None
        assert reply.usage.prompt_tokens_details.cached_tokens == 0
        async with mock.client.post(f"{mock.url}/flush_cache") as flushed:
            assert flushed.status == 200


async def test_bills_of_both_kinds_add_up(mock: Mock) -> None:
    """In a header, or in a comment just before the end of a stream; the parts are those of the call."""
    body = {**ASK, "max_tokens": 20, "ignore_eos": True}
    async with mock.client.post(f"{mock.url}/v1/chat/completions", json=body, headers=identity()) as reply:
        plain = decode_bill(reply.headers["x-autellix-bill"])
    headers = identity(call="0.1")
    async with mock.client.post(
        f"{mock.url}/v1/chat/completions", json={**body, "stream": True}, headers=headers
    ) as reply:
        events = (await reply.read()).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    streamed = decode_bill(events[-3].removeprefix(BILL_COMMENT))
    assert (plain.call, streamed.call) == ("0.0", "0.1")
    for bill in (plain, streamed):
        assert (bill.program, bill.engine, bill.output_tokens) == ("p1", "mock", 20)
        # Twenty steps of a second, five thousand times as fast; the first of them computes the prompt.
        assert bill.time.prefill_us == pytest.approx(200, abs=2)
        assert bill.time.decode_us == pytest.approx(3_800, abs=2)
        assert bill.service_us == pytest.approx(bill.time.prefill_us + bill.time.decode_us, abs=2)


async def test_a_client_that_leaves_frees_the_engine() -> None:
    """A stream that is closed early and a plain call that is given up; time stands still all along."""
    clock = JumpClock()
    async with running_mock(clock=clock) as mock:
        engine = mock.server.engine
        body = {**ASK, "max_tokens": 500, "ignore_eos": True, "stream": True}
        stream = await mock.client.post(f"{mock.url}/v1/chat/completions", json=body)
        plain = asyncio.create_task(mock.json("POST", "/v1/chat/completions", json={**body, "stream": False}))
        await until(lambda: engine.waiting + engine.running == 2)
        stream.close()
        plain.cancel()
        await until(lambda: engine.counters.aborted == 2)
        async with clock.running():
            await until(lambda: engine.waiting + engine.running == 0)
        assert engine.pinned_tokens == 0
        assert (await mock.counters()) == {"calls": 2, "completed": 0, "aborted": 2}


async def test_it_says_what_it_is(mock: Mock) -> None:
    """Health, load, model and policy."""
    for path in ("/health", "/health_generate"):
        async with mock.client.get(mock.url + path) as reply:
            assert (reply.status, await reply.read()) == (200, b"")
    _, loads = await mock.json("GET", "/v1/loads")
    assert loads["loads"][0]["num_running_reqs"] == 0
    _, info = await mock.json("GET", "/server_info")
    assert (info["served_model_name"], info["mock_engine"]["policy"]) == ("mock", "fcfs")
    model = info["mock_engine"]["engine_model"]
    assert EngineLimits.from_server_info(info) == EngineLimits(2, model["kv_tokens"], model["chunk_tokens"])


async def test_calls_shape_each_other_as_in_the_model() -> None:
    """Two slots, three calls of ten seconds: two end together, the third behind them."""
    clock = JumpClock()
    async with running_mock(clock=clock) as mock:

        async def call(session: aiohttp.ClientSession) -> CallBill:
            body = {**ASK, "max_tokens": 10, "ignore_eos": True}
            async with session.post(f"{mock.url}/v1/chat/completions", json=body) as reply:
                await reply.read()
                return decode_bill(reply.headers["x-autellix-bill"])

        calls = [asyncio.create_task(call(mock.client)) for _ in range(3)]
        await until(lambda: mock.server.engine.waiting + mock.server.engine.running == 3)
        async with clock.running():
            bills = await asyncio.gather(*calls)
        walls = sorted(bill.time.wall_us for bill in bills)
        assert walls == [10_000_000, 10_000_000, 19_000_000]
        assert {bill.service_us for bill in bills} == {10_000_000}
