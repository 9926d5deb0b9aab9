"""LiteLLM: completions of several providers, streams, Responses, its router, and a loop with a tool."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import litellm
import pytest

from tests.frameworks.conftest import (
    ANSWERS,
    CHAIN,
    DIAMOND,
    ONE_CALL,
    TOPICS,
    Model,
    in_tasks,
    in_threads,
    looks_up_then_answers,
    run_page,
)

TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"topic": {"type": "string"}}}},
}


def options(model: Model, provider: str) -> dict[str, Any]:
    """What names the model to a provider of LiteLLM."""
    base = model.url if provider == "anthropic" else model.base_url
    return {"model": f"{provider}/m", "api_base": base, "api_key": "key", "num_retries": 0}


def question(topic: str) -> list[dict[str, Any]]:
    """What the model is asked."""
    return [{"role": "user", "content": f"Tell me about {topic}."}]


ON_ALL_PROVIDERS = pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "anthropic"])


@ON_ALL_PROVIDERS
def test_a_loop_with_a_tool_is_a_chain(model: Model, provider: str) -> None:
    """The call that asks for the tool, and the call that answers, by the sync function."""
    model.rule = looks_up_then_answers

    def run(topic: str) -> Any:
        messages = question(topic)
        while True:
            message = litellm.completion(messages=messages, tools=[TOOL], **options(model, provider)).choices[0].message
            if not message.tool_calls:
                return message.content
            messages.append(message.model_dump())
            for use in message.tool_calls:
                found = json.loads(use.function.arguments)["topic"] + " come and go"
                messages.append({"role": "tool", "tool_call_id": use.id, "content": found})

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


@ON_ALL_PROVIDERS
async def test_async_calls_at_once_are_threads(model: Model, provider: str) -> None:
    """A plan, two branches and a streamed summary, by the async function."""
    model.meet = {"Branch": 2 * len(TOPICS)}

    async def ask(text: str) -> Any:
        return await litellm.acompletion(messages=question(text), **options(model, provider))

    async def run(topic: str) -> str:
        await ask(topic)
        await asyncio.gather(ask(f"Branch for {topic}"), ask(f"Branch against {topic}"))
        stream = await litellm.acompletion(messages=question(topic), stream=True, **options(model, provider))
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [DIAMOND, DIAMOND]


def test_responses_in_a_row_are_a_chain(model: Model) -> None:
    """LiteLLM makes these with a client of its own."""

    def run(topic: str) -> Any:
        for _ in range(2):
            said = litellm.responses(input=f"Tell me about {topic}.", **options(model, "openai"))
        return said.output[0].content[0].text

    assert in_threads(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


async def test_the_router_is_seen(model: Model) -> None:
    """Its calls stand where the code that asks it does."""
    params = options(model, "openai")
    router = litellm.Router(model_list=[{"model_name": "any", "litellm_params": params}], num_retries=0)

    async def run(topic: str) -> Any:
        for _ in range(2):
            said = await router.acompletion(model="any", messages=question(topic))
        return said.choices[0].message.content

    assert await in_tasks(run) == ANSWERS
    assert model.graphs() == [CHAIN, CHAIN]


def test_the_page_about_it_is_right(model: Model) -> None:
    """The code of its page in the documentation runs as it stands."""
    run_page(model, "litellm")
    assert model.graphs() == [ONE_CALL, ONE_CALL]
