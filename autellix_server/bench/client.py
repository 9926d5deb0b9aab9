"""The way to an OpenAI-compatible server over HTTP: what it can do is found out first, then calls are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER, CallContext, CallId, ProgramId, encode_call
from autellix_server.bench.api import FORCINGS, AnswerReader, Api, CallFailure, Dialect, error_words
from autellix_server.bench.records import Answer
from autellix_server.errors import ServerError

_PROBE_TOKENS = 4
_PROBE_PROMPT = " one two three"
_PROBE_PROGRAM = "autellix-bench-probe"
_SHORT_LIMIT_S = 10.0
_INFO_KEYS = (
    "version",
    "device",
    "dtype",
    "context_length",
    "attention_backend",
    "schedule_policy",
    "max_running_requests",
    "max_total_num_tokens",
    "chunked_prefill_size",
    "tp_size",
    "dp_size",
)
"""What is taken from SGLang's ``/server_info``: nothing that names a machine, a folder or a key."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How servers are spoken to.

    Attributes:
        api: which endpoint gets the prompts.
        model: name of the model; `None` takes the first that the server lists.
        api_key: sent as bearer token; `None` sends none.
        timeout_s: a call that takes longer has failed.
        force_lengths: have outputs of exactly the length of the trace.
        anonymous: do not say which program a call belongs to.
    """

    api: Api = "completions"
    model: str | None = None
    api_key: str | None = None
    timeout_s: float = 600.0
    force_lengths: bool = True
    anonymous: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """Connections to one server, asked by paths below its address; made by `open_session`."""

    http: aiohttp.ClientSession
    address: str

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Return the context of a request, with `body` as JSON if there is one."""
        return self.http.request(method, self.address + path, json=body, headers=headers)


@asynccontextmanager
async def open_session(url: str, settings: ClientSettings) -> AsyncIterator[Session]:
    """Yield a session with a server: as many connections as there are calls, and no time limit of its own.

    Args:
        url: of the server, with or without ``/v1``.
        settings: for the key.
    """
    headers = {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key}"}
    async with aiohttp.ClientSession(
        headers=headers, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    ) as http:
        yield Session(http, url.rstrip("/").removesuffix("/v1"))


@dataclass(slots=True)
class Server:
    """A server that has shown what it can do; made by `connect`. It is a `Sender`.

    Attributes:
        facts: what it says of itself, by name; no host, no folder.
        complaints: what it does not do as asked, in sentences.
    """

    session: Session
    settings: ClientSettings
    dialect: Dialect
    facts: Mapping[str, Any] = field(default_factory=dict)
    complaints: tuple[str, ...] = ()
    ends_programs: bool = False

    async def send(self, context: CallContext, prompt: str, tokens: int) -> Answer:
        """Send a call; see `Sender.send`."""
        headers = {} if self.settings.anonymous else _identity(context)
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return await self._stream(self.dialect.body(prompt, tokens), headers)
        except TimeoutError:
            raise CallFailure(f"no answer within {self.settings.timeout_s:g} s (--timeout)") from None
        except aiohttp.ClientError as error:
            raise CallFailure(f"the connection failed: {type(error).__name__}") from error

    async def end(self, program: ProgramId, failed: bool) -> None:
        """Say that a program has ended, to servers that know programs; see `Sender.end`."""
        if self.ends_programs:
            ended = {"id": program, "status": "failed" if failed else "done"}
            await _reply(self.session, "POST", "/autellix/v1/programs/end", {"programs": [ended]})

    async def flush_cache(self) -> None:
        """Empty the prefix cache of servers that can; elsewhere the salt of a round keeps it from finding anything."""
        await _reply(self.session, "POST", "/flush_cache")

    async def _stream(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Answer:
        clock = asyncio.get_running_loop().time
        async with self.session.request("POST", self.dialect.path, body, headers) as response:
            if response.status != 200:
                raise _Refusal(response.status, error_words(await _json(response)))
            reader = AnswerReader(clock)
            async for chunk in response.content.iter_any():
                reader.feed(chunk)
            return reader.answer()


class _Refusal(CallFailure):
    """The server answered with an error status."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"status {status}: {words}")
        self.status = status


async def connect(session: Session, settings: ClientSettings) -> Server:
    """Find out what a server can do, with one short call.

    Raises:
        ServerError: it cannot be reached, or refuses what the bench needs; the message says what helps.
    """
    models = await _models(session, wanted=settings.model is None)
    model = settings.model or next(iter(models), None)
    if model is None:
        raise ServerError("the server lists no model; name one with --model")
    dialect = Dialect(settings.api, model, FORCINGS[0] if settings.force_lengths else ())
    server = Server(session, settings, dialect, await _facts(session, model, models.get(model, {})))
    if not settings.anonymous:
        server.ends_programs = await _reply(session, "POST", "/autellix/v1/programs/end", {"programs": []}) is not None
    await _probe(server)
    return server


async def _probe(server: Server) -> None:
    """Settle how output lengths are forced, and note what is not as asked."""
    context = CallContext(ProgramId(_PROBE_PROGRAM), "b", 0, CallId("0"))
    refusal: _Refusal | None = None
    for forcing in FORCINGS if server.settings.force_lengths else ((),):
        server.dialect = replace(server.dialect, forcing=forcing)
        try:
            answer = await server.send(context, _PROBE_PROMPT, _PROBE_TOKENS)
        except _Refusal as found:
            refusal = found
            if found.status in (400, 422):
                continue
            raise ServerError(f"the server refuses a short call with {found}") from found
        except CallFailure as failure:
            raise ServerError(f"a short call fails: {failure}") from failure
        await server.end(context.program, failed=False)
        server.complaints = tuple(_complaints(answer, server.settings.force_lengths))
        return
    remedy = "; leave lengths to the model with --free-lengths" if server.settings.force_lengths else ""
    raise ServerError(f"the server refuses a short call with {refusal}{remedy}")


def _complaints(answer: Answer, force_lengths: bool) -> list[str]:
    if answer.output_tokens is None:
        return ["the server does not count tokens in streams: output lengths are taken to be as asked for"]
    if force_lengths and answer.output_tokens != _PROBE_TOKENS:
        return [f"asked for {_PROBE_TOKENS} tokens, the server gave {answer.output_tokens}: it does not force lengths"]
    return []


async def _models(session: Session, *, wanted: bool) -> dict[str, Mapping[str, Any]]:
    """Return what the server lists; nothing where it has no list, which is an error only when it is `wanted`."""
    try:
        async with asyncio.timeout(_SHORT_LIMIT_S), session.request("GET", "/v1/models") as response:
            reply = await _json(response)
            if response.status in (401, 403):
                words = error_words(reply)
                raise ServerError(f"the server refuses us ({words}); name the variable with its key: --api-key-env")
            if response.status != 200 and wanted:
                raise ServerError(
                    f"GET {response.url.path} is answered with {response.status}: {error_words(reply)}; "
                    "check the server's URL, or name the model with --model"
                )
    except aiohttp.ClientConnectorError as error:
        where = f"{error.host}:{error.port}: {error.strerror}"
        raise ServerError(f"the server cannot be reached at {where}; start it, or check its URL") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ServerError(f"the server cannot be reached: {str(error) or type(error).__name__}") from error
    rows = reply.get("data") if isinstance(reply, dict) else None
    return {str(row["id"]): row for row in rows or () if isinstance(row, dict) and "id" in row}


async def _facts(session: Session, model: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the server says of itself."""
    facts: dict[str, Any] = {"model": model.rsplit("/", 1)[-1] if model.startswith(("/", ".")) else model}
    if isinstance(row.get("max_model_len"), int):
        facts["max_model_len"] = row["max_model_len"]
    info = await _reply(session, "GET", "/server_info")
    if info is not None:
        facts |= {key: info[key] for key in _INFO_KEYS if isinstance(info.get(key), str | int | float)}
    health = await _reply(session, "GET", "/health")
    if health is not None and isinstance(health.get("version"), str):
        facts.setdefault("version", health["version"])
    return facts


async def _reply(
    session: Session, method: str, path: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Return the JSON object that an endpoint replies with; `None` where there is no such endpoint, or no object."""
    try:
        async with asyncio.timeout(_SHORT_LIMIT_S), session.request(method, path, body) as response:
            reply = await _json(response) if response.status == 200 else None
            return reply if isinstance(reply, dict) else None
    except (aiohttp.ClientError, TimeoutError):
        return None


async def _json(response: aiohttp.ClientResponse) -> object:
    """Return a reply as JSON, or its text if it is none."""
    try:
        return await response.json(content_type=None)
    except ValueError:
        return (await response.read()).decode(errors="replace")


def _identity(context: CallContext) -> dict[str, str]:
    return {PROGRAM_HEADER: context.program, CALL_HEADER: encode_call(context)}
