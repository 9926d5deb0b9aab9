"""LangChain's chat model for tests that run in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
from fake_openai import FakeOpenAI, connected
from langchain_openai import ChatOpenAI


@asynccontextmanager
async def chat_model(fake: FakeOpenAI) -> AsyncIterator[ChatOpenAI]:
    """A model of `fake` that does not retry, SDK switched on."""
    async with connected(fake):
        # LangChain shares HTTP clients between models, also of other tests, unless given such a time-out.
        model = ChatOpenAI(base_url=fake.url, api_key="none", model="fake", max_retries=0, timeout=openai.Timeout(20.0))
        try:
            yield model
        finally:
            model.root_client.close()
            await model.root_async_client.close()
