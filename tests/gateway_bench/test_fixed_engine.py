"""The fixed engine: an OpenAI server that says of each token when it was due."""

from __future__ import annotations

import json
from itertools import pairwise

import aiohttp
import pytest
from gateway_bench_world import listening

from autellix_sdk.bill import decode_bill
from autellix_sdk.wire import BILL_COMMENT, BILL_HEADER
from autellix_server.gateway_bench.fixed_engine import RESOURCES
from autellix_server.gateway_bench.wire import PATH, Marks, chat_body

STAMPED = {"x-autellix-program": "p1", "x-autellix-call": "v1;s=a;t=0;c=0.7", "x-autellix-stamp": "s"}


async def test_an_answer_is_a_chat_completion_with_one_token() -> None:
    """A connection serves many calls; nobody who sends no stamp gets a bill."""
    body = chat_body(1, 0, stream=False, prompt_bytes=10)
    async with listening() as url, aiohttp.ClientSession(url) as session:
        for _ in range(3):
            async with session.post(PATH, data=body) as reply:
                answer = await reply.json()
                assert BILL_HEADER not in reply.headers
        assert len(Marks().feed(answer["choices"][0]["message"]["content"].encode())) == 1
        async with session.post(PATH, data=body, headers=STAMPED) as reply:
            bill = decode_bill(reply.headers[BILL_HEADER])
        assert (bill.program, bill.call) == ("p1", "0.7")


async def test_a_stream_has_its_tokens_at_the_pace_that_is_asked_for() -> None:
    """By what they say of themselves; a stamped one has its bill before the end."""
    async with listening() as url, aiohttp.ClientSession(url) as session:
        body = chat_body(5, 100, stream=True, prompt_bytes=10)
        async with session.post(PATH, data=body, headers=STAMPED) as reply:
            assert reply.content_type == "text/event-stream"
            text = await reply.read()
    *events, bill, done, _ = text.split(b"\n\n")
    assert done == b"data: [DONE]"
    assert decode_bill(bill.removeprefix(BILL_COMMENT)).call == "0.7"
    contents = [json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"].get("content") for event in events]
    assert len(contents) == 7
    due_s = Marks().feed(" ".join(map(str, contents)).encode())
    assert [later - earlier for earlier, later in pairwise(due_s)] == pytest.approx([0.01] * 4, abs=2e-6)


async def test_routers_find_what_they_ask_for() -> None:
    """Health, model and server; nothing else is there."""
    async with listening() as url, aiohttp.ClientSession(url) as session:
        for path, expected in RESOURCES.items():
            async with session.get(path) as reply:
                assert await reply.json() == expected
        async with session.get("/elsewhere") as reply:
            assert reply.status == 404
