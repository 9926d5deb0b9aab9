"""What all examples share and no agent is about: options, programs side by side, exit codes, and failures."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam

BASE_URL = "http://127.0.0.1:8700/v1"
MAX_REPLY_CHARS = 2000
"""Replies are cut here: some servers ignore `max_tokens`, and a reply becomes part of the next prompt."""

STREAM_ERRORS: tuple[type[Exception], ...] = (
    openai.APIError,
    *(importlib.import_module(name).HTTPError for name in ("httpx", "httpx2") if importlib.util.find_spec(name)),
)
"""What a stream ends with: an error that the server sends, or, in openai 2, whatever the HTTP library says."""


@dataclass(slots=True)
class Outcome:
    """What a program reports: calls answered, the client's seconds, why it ended early, the server's time bill."""

    agent: str
    calls: int = 0
    seconds: float = 0.0
    error: str | None = None
    bill: dict[str, Any] = field(default_factory=dict)


R = TypeVar("R", bound=Outcome)


class CallFailed(Exception):
    """A call failed, retries included, or its answer is no chat completion; the message is one sentence."""


@contextmanager
def failures_in_a_sentence(client: openai.AsyncOpenAI) -> Iterator[None]:
    """Turn whatever the client raises when a call fails into `CallFailed`."""
    server = f"the server at {str(client.base_url).rstrip('/')}"
    try:
        yield
    except openai.APIConnectionError as error:  # a time-out has a cause without words
        raise CallFailed(f"{server} cannot be reached: {str(error.__cause__ or '') or error}") from error
    except openai.APIStatusError as error:
        raise CallFailed(f"{server} answered {error.status_code}: {' '.join(error.message.split())[:200]}") from error
    except STREAM_ERRORS as error:
        raise CallFailed(f"{server} broke off its answer: {' '.join(str(error).split())[:200]}") from error
    except (openai.OpenAIError, ValueError, IndexError, TypeError) as error:  # not JSON, or not what LangChain expects
        raise CallFailed(f"{server} sent an answer that cannot be read ({type(error).__name__})") from error


def first_failure(failures: BaseException) -> str:
    """The sentence of the first `CallFailed` in what a task group raised."""
    while isinstance(failures, BaseExceptionGroup):  # task groups nest
        failures = failures.exceptions[0]
    return str(failures)


def reply_of(completion: ChatCompletion) -> str:
    """The model's reply, possibly empty; raises `CallFailed`, as the client does not validate what servers send."""
    try:
        return (completion.choices[0].message.content or "").strip()
    except (AttributeError, IndexError, TypeError) as error:
        raise CallFailed("the server's answer is not a chat completion") from error


def piece_of(chunk: ChatCompletionChunk) -> str:
    """What a chunk of a stream adds to the reply, often nothing; raises `CallFailed` as `reply_of` does."""
    try:
        return chunk.choices[0].delta.content or "" if chunk.choices else ""
    except (AttributeError, IndexError, TypeError) as error:
        raise CallFailed("the server's answer is not a stream of a chat completion") from error


def dialogue(system: str, *turns: str) -> list[ChatCompletionMessageParam]:
    """The messages of a prompt: a system message, then user and assistant in turn."""
    messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": system}]
    for place, turn in enumerate(turns):
        messages.append({"role": "assistant", "content": turn} if place % 2 else {"role": "user", "content": turn})
    return messages


def printable(text: str) -> str:
    """`text` without what steers a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def count(text: str) -> int:
    """Argparse type: a whole number from 1 up."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def url(text: str) -> str:
    """Argparse type: an HTTP URL."""
    if urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname or urlsplit(text).port == 0:
        raise ValueError
    return text


def options(description: str | None, tasks: str, max_tokens: int, temperature: float = 0.0) -> ArgumentParser:
    """The options that every example has.

    Args:
        description: what the help begins with, kept as it is laid out.
        tasks: what the example works on, in the plural.
        max_tokens, temperature: defaults.
    """
    environ = os.environ
    server = environ.get("AUTELLIX_BASE_URL") or environ.get("OPENAI_BASE_URL") or BASE_URL
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.set_defaults(api_key=environ.get("AUTELLIX_API_KEY") or environ.get("OPENAI_API_KEY") or "none")
    add = parser.add_argument
    add("--base-url", type=url, default=server, help="default: %(default)s")
    add("--model", default="default", help="model to ask for (default: %(default)s)")
    add("--temperature", type=float, default=temperature, help="default: %(default)s")
    add("--max-tokens", type=count, default=max_tokens, help="tokens per reply (default: %(default)s)")
    add("--concurrency", type=count, default=1, help="programs at once (default: %(default)s)")
    add("--limit", type=count, help=f"take only the first LIMIT {tasks}")
    add("--json", action="store_true", help="print one JSON object per program, as each ends")
    return parser


async def side_by_side(run_one: Callable[[Any], Awaitable[R]], tasks: Iterable[Any], args: Namespace) -> list[R]:
    """Run a program per task and print each outcome; as long as no call is answered, no worker starts a second one."""
    waiting = iter(tasks)
    outcomes: list[R] = []

    async def worker() -> None:
        for task in waiting:  # the workers share the iterator, so each task is taken once
            outcomes.append(outcome := await run_one(task))
            print(json.dumps(asdict(outcome)) if args.json else outcome, flush=True)
            if not any(outcome.calls for outcome in outcomes):
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(args.concurrency):
            group.create_task(worker())
    return outcomes


def print_anything() -> None:
    """Let standard output escape what the terminal cannot show, as answers may hold anything."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def finish(programs: Coroutine[Any, Any, list[R]], summary: Callable[[list[R]], str], args: Namespace) -> int:
    """Run the programs to the exit code: 0 when the model answered at all, 1 when it did not, 130 after Ctrl-C."""
    print_anything()
    try:
        outcomes = asyncio.run(programs)
    except KeyboardInterrupt:
        return 130
    answered = any(outcome.calls for outcome in outcomes)
    last_words = summary(outcomes) if answered else f"error: {outcomes[0].error}"
    print(last_words, file=sys.stdout if answered and not args.json else sys.stderr)
    return 0 if answered else 1
