"""What both examples share and no agent is about: programs side by side, exit codes, failures in one sentence."""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion


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
    except (openai.OpenAIError, ValueError) as error:  # ValueError: a body that is not JSON
        raise CallFailed(f"{server} sent an answer that cannot be read ({type(error).__name__})") from error


def reply_of(completion: ChatCompletion) -> str:
    """The model's reply, possibly empty; raises `CallFailed`, as the client does not validate what servers send."""
    try:
        return (completion.choices[0].message.content or "").strip()
    except (AttributeError, IndexError, TypeError) as error:
        raise CallFailed("the server's answer is not a chat completion") from error


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


def finish(programs: Coroutine[Any, Any, list[R]], summary: Callable[[list[R]], str], args: Namespace) -> int:
    """Run the programs to the exit code: 0 when the model answered at all, 1 when it did not, 130 after Ctrl-C."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # answers may not fit a terminal
    try:
        outcomes = asyncio.run(programs)
    except KeyboardInterrupt:
        return 130
    answered = any(outcome.calls for outcome in outcomes)
    last_words = summary(outcomes) if answered else f"error: {outcomes[0].error}"
    print(last_words, file=sys.stdout if answered and not args.json else sys.stderr)
    return 0 if answered else 1
