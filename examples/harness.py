"""What the examples share: options, one careful call to the model, programs side by side, exit codes.

Nothing here knows about Autellix; it is the plumbing that any command-line agent on the `openai` package needs.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam as Message
from tools import printable

DEFAULT_BASE_URL = "http://127.0.0.1:8700/v1"
MAX_REPLY_CHARS = 2000
"""Replies are cut here: some servers ignore `max_tokens`, and a reply becomes part of the next prompt."""


class CallFailed(Exception):
    """One call to the model failed, retries included; the message is one sentence for the user."""


class Outcome(Protocol):
    """What a finished program reports, whichever agent it ran."""

    @property
    def calls(self) -> int:
        """Calls that the model answered."""

    @property
    def error(self) -> str | None:
        """Why the program ended early, or `None`."""

    def to_json(self) -> dict[str, Any]:
        """JSON object for `--json`."""

    def line(self) -> str:
        """One line for a person."""


T = TypeVar("T")
R = TypeVar("R", bound=Outcome)


class Chat:
    """A chat model as one program uses it: counts the answered calls and survives what weak models send.

    Attributes:
        calls: calls answered so far.
    """

    def __init__(self, client: AsyncOpenAI, model: str, temperature: float) -> None:
        self._client = client
        self._model = model
        self._temperature = temperature
        self.calls = 0

    async def ask(self, messages: Sequence[Message], max_tokens: int, stop: str | None = None) -> str:
        """Return the model's reply: at most `MAX_REPLY_CHARS` printable characters, possibly none.

        Args:
            messages: the whole conversation.
            max_tokens: bound on the reply, in tokens.
            stop: text that ends the reply, or `None`.

        Raises:
            CallFailed: no answer, a refusal, or an answer that is no chat completion.
        """
        try:
            completion = await self._client.chat.completions.create(
                model=self._model,
                messages=list(messages),
                max_tokens=max_tokens,
                temperature=self._temperature,
                stop=stop,
            )
        except (openai.OpenAIError, ValueError) as error:  # ValueError: a body that is not JSON
            raise CallFailed(_sentence(error, self._client)) from error
        reply = _reply_text(completion)
        self.calls += 1
        return reply


def first_cause(failure: BaseException) -> BaseException:
    """The first exception in a group, however deeply task groups have nested it."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _sentence(error: Exception, client: AsyncOpenAI) -> str:
    where = f"the server at {str(client.base_url).rstrip('/')}"
    match error:
        case openai.APITimeoutError():
            return f"{where} gave no answer within {client.timeout} s"
        case openai.APIConnectionError():
            return f"{where} cannot be reached: {error.__cause__ or error}"
        case openai.APIStatusError():
            return f"{where} answered {error.status_code}: {printable(error.message)[:200]}"
    return f"{where} sent an answer that cannot be read: {type(error).__name__}"


def _reply_text(completion: Any) -> str:
    try:
        content = completion.choices[0].message.content
    except (AttributeError, IndexError, TypeError) as error:  # the client does not validate what servers send
        raise CallFailed("the server's answer is not a chat completion") from error
    return printable(content).strip()[:MAX_REPLY_CHARS] if isinstance(content, str) else ""


def add_common_options(parser: argparse.ArgumentParser, temperature: float) -> None:
    """Add the options that every example has; `temperature` is this agent's default."""
    add = parser.add_argument
    add(
        "--base-url",
        type=_http_url,
        default=os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL,
        help="OpenAI-compatible endpoint (default: OPENAI_BASE_URL, else %(default)s); key: OPENAI_API_KEY",
    )
    add("--model", default="default", help="model name to ask for (default: %(default)s)")
    add("--temperature", type=bounded(float, 0, 2), default=temperature, help="0 to 2 (default: %(default)s)")
    add("--timeout", type=bounded(float, 1, 3600), default=120.0, help="seconds per call (default: %(default)s)")
    add("--concurrency", type=bounded(int, 1, 256), default=1, help="programs at once (default: %(default)s)")
    add("--json", action="store_true", help="print one JSON object per program, as each ends")


def bounded(kind: Callable[[str], T], low: float, high: float) -> Callable[[str], T]:
    """Argparse type: a number of `kind` from `low` to `high`, both included."""

    def convert(text: str) -> T:
        value = kind(text)
        if not low <= float(text) <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")
        return value

    convert.__name__ = kind.__name__  # argparse names it in "invalid int value"
    return convert


def _http_url(text: str) -> str:
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL such as {DEFAULT_BASE_URL}")
    return text


def open_client(args: argparse.Namespace) -> AsyncOpenAI:
    """Make the client for the common options; servers without keys get a placeholder."""
    key = os.environ.get("OPENAI_API_KEY") or "none"
    return AsyncOpenAI(base_url=args.base_url, api_key=key, timeout=args.timeout)


def progress(text: str) -> None:
    """Tell the person who watches; standard output stays free for results."""
    print(text, file=sys.stderr, flush=True)


async def run_side_by_side(
    tasks: Iterable[T], run_one: Callable[[T], Awaitable[R]], concurrency: int, as_json: bool
) -> list[R]:
    """Run one program per task, `concurrency` at a time, and print each result when it is there.

    When the first programs fail without a single answered call, the rest is not started.
    """
    waiting = iter(tasks)
    results: list[R] = []

    async def worker() -> None:
        for task in waiting:  # the workers share the iterator, so each task is taken once
            result = await run_one(task)
            results.append(result)
            print(json.dumps(result.to_json()) if as_json else result.line(), flush=True)
            if not _any_answer(results):
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
    return results


def _any_answer(results: Iterable[Outcome]) -> bool:
    return any(result.calls for result in results)


def report(results: Sequence[Outcome], summary: str, as_json: bool) -> int:
    """Print the summary (beside the JSON, not in it) and return the exit code.

    Returns:
        0 when the model answered at all, however wrongly; else 1, after one sentence that says why.
    """
    if _any_answer(results):
        print(summary, file=sys.stderr if as_json else sys.stdout, flush=True)
        return 0
    progress(f"error: {next((result.error for result in results if result.error), 'no program ran')}")
    return 1


def run_main(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run an example's `main` to its exit code; Ctrl-C ends it with 130 and no traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a model's answer may not fit the terminal's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return asyncio.run(main())
    except KeyboardInterrupt:
        progress("interrupted")
        return 130
