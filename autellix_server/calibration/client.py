"""Calls to the server that is measured: streamed completions of forced length, with the time of every token."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

import aiohttp

from autellix_sdk.bill import decode_bill
from autellix_sdk.errors import UsageError
from autellix_sdk.wire import BILL_COMMENT, BILL_HEADER
from autellix_server.engine.limits import EngineLimits
from autellix_server.errors import EngineFailure

_SILENCE_LIMIT_S = 300.0
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion. Times are the event loop's, in seconds.

    Attributes:
        sent_s: when the request was sent.
        tokens: for every event that brought tokens, when it came and how many there were by then; never empty.
        cached_tokens: prompt tokens that the server found in its cache; `None` when it does not say.
    """

    sent_s: float
    tokens: tuple[tuple[float, int], ...]
    cached_tokens: int | None

    @property
    def first_s(self) -> float:
        """When the first token came."""
        return self.tokens[0][0]

    @property
    def last_s(self) -> float:
        """When the last token came."""
        return self.tokens[-1][0]


class Client(Protocol):
    """The server, as far as probes care. Used on one event loop; calls may run side by side."""

    async def complete(self, prompt: Sequence[int], output_tokens: int) -> Answer:
        """Have `output_tokens`, 1 or more, generated after a prompt of token IDs.

        Raises:
            EngineFailure: the server does not answer, or not as it should.
        """


class HttpClient:
    """An OpenAI-compatible server; made by `connect`.

    Args:
        session: connections to it.
        url: its address, without ``/v1``.

    Attributes:
        model: name to ask for; empty until it is found out.
        context_tokens: longest prompt and output together, if the server says.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self.model = ""
        self.context_tokens: int | None = None

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, model: str | None, api_key: str | None, *, keep_alive: bool = True
    ) -> AsyncIterator[Self]:
        """Connect, and ask what models there are.

        Args:
            url: of the server, with or without ``/v1``.
            model: which model to measure; `None` is the first that the server lists.
            api_key: sent as bearer token, if given.
            keep_alive: use connections again; some servers close them just when the next call is on its way.

        Raises:
            UsageError: `url` is none.
            EngineFailure: no such server answers, or it has no such model.
        """
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--url is {url!r}; write http://HOST:PORT")
        async with aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            connector=aiohttp.TCPConnector(limit=0, force_close=not keep_alive),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_SILENCE_LIMIT_S),
        ) as session:
            client = cls(session, url.rstrip("/").removesuffix("/v1"))
            await client._choose(model)
            yield client

    async def _choose(self, model: str | None) -> None:
        try:
            listed = {one["id"]: one.get("max_model_len") for one in (await self.get("/v1/models"))["data"]}
        except (AttributeError, KeyError, TypeError) as error:
            raise EngineFailure(f"{self._url} lists no models under /v1/models: is it an OpenAI server?") from error
        if not listed or model not in (None, *listed):
            raise EngineFailure(f"{self._url} has no model {model or ''!r}; it has: {', '.join(listed) or 'none'}")
        self.model = model or next(iter(listed))
        self.context_tokens = listed[self.model]

    async def get(self, path: str) -> Any:
        """Return the JSON of a resource.

        Raises:
            EngineFailure: there is none, or nobody answers.
        """
        async with _explained(), self._session.get(self._url + path) as reply:
            await _check(reply)
            return await reply.json()

    async def limits(self) -> EngineLimits:
        """Return what the server says: SGLang does under ``/server_info``, `autellix serve` under ``/health``."""
        info = await self._said("/server_info")
        if info:
            return EngineLimits.from_server_info(info)
        engines = (await self._said("/health")).get("engines")
        first = next(iter(engines.values()), None) if isinstance(engines, dict) else None
        return EngineLimits.from_json(first.get("limits") if isinstance(first, dict) else None)

    async def _said(self, path: str) -> Mapping[str, Any]:
        """Return the JSON object of a resource; an empty one where there is none."""
        try:
            found = await self.get(path)
        except EngineFailure:
            return {}
        return found if isinstance(found, dict) else {}

    async def complete(self, prompt: Sequence[int], output_tokens: int) -> Answer:
        """Have tokens generated, see `Client.complete`."""
        body = {
            "model": self.model,
            "prompt": list(prompt),
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        loop = asyncio.get_running_loop()
        stream = TokenStream()
        sent_s = loop.time()
        url, headers = f"{self._url}/v1/completions", {BILL_HEADER: "1"}  # which asks for the bill in the stream
        async with _explained(), self._session.post(url, json=body, headers=headers) as reply:
            await _check(reply)
            async for line in reply.content:
                stream.line(line, loop.time())
        return stream.answer(sent_s, output_tokens)


class TokenStream:
    """Reads the events of one completion. Pure: it is told the time of every line."""

    def __init__(self) -> None:
        self._tokens: list[tuple[float, int]] = []
        self._cached_tokens: int | None = None

    def line(self, line: bytes, now: float) -> None:
        """Take the next line of the stream.

        Raises:
            EngineFailure: the server reports an error, or the line makes no sense.
        """
        try:
            if line.startswith(BILL_COMMENT):
                self._cached_tokens = decode_bill(line[len(BILL_COMMENT) :]).cached_tokens
            elif line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                self._event(json.loads(line[5:]), now)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EngineFailure(f"the server's stream cannot be read: {_shown(line)} ({error})") from error

    def answer(self, sent_s: float, output_tokens: int) -> Answer:
        """Return the whole answer.

        Raises:
            EngineFailure: there are more or fewer than `output_tokens` tokens.
        """
        got = self._tokens[-1][1] if self._tokens else 0
        if got != output_tokens:
            raise EngineFailure(
                f"{output_tokens} tokens were asked for and {got} came: the server must take max_tokens and ignore_eos"
            )
        return Answer(sent_s, tuple(self._tokens), self._cached_tokens)

    def _event(self, event: dict[str, Any], now: float) -> None:
        if "error" in event:
            raise EngineFailure(f"the server failed a call: {event['error']}")
        usage = event.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        if details.get("cached_tokens") is not None:
            self._cached_tokens = details["cached_tokens"]
        # A server that keeps its count to itself sends one token an event.
        before = self._tokens[-1][1] if self._tokens else 0
        tokens = usage.get("completion_tokens", before + any(map(_has_token, event["choices"])))
        if tokens > before:
            self._tokens.append((now, tokens))


def _has_token(choice: Mapping[str, Any]) -> bool:
    """Whether a choice brings a token: a text may be empty, but not beside the reason why the answer is over."""
    return bool(choice.get("text")) or choice.get("finish_reason") is None


@asynccontextmanager
async def _explained() -> AsyncIterator[None]:
    """Turn errors of the connection into one sentence."""
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise EngineFailure(
            f"no server answers at {error.host}:{error.port}: {error.strerror}; "
            "start one with `autellix serve`, or name it with --url"
        ) from None
    except TimeoutError as error:
        raise EngineFailure("the server is silent; is it overloaded, or --url not its address?") from error
    except (aiohttp.ClientError, ValueError) as error:
        raise EngineFailure(f"the server broke off: {error or type(error).__name__}") from error


async def _check(reply: aiohttp.ClientResponse) -> None:
    if reply.status != 200:
        answer = f"{reply.method} {reply.url} is answered with {reply.status}: {_shown(await reply.read())}"
        raise EngineFailure(f"{answer}; is --url that of an OpenAI-compatible server?")


def _shown(data: bytes) -> str:
    text = " ".join(data.decode("utf-8", "replace").split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
