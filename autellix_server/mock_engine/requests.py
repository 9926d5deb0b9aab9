"""The OpenAI API's requests as far as they matter here: bodies are checked and reduced to tokens and lengths. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autellix_sdk.errors import UsageError
from autellix_server.mock_engine.tokens import answer_tokens, chat_tokens, id_tokens, text_tokens

MEAN_ANSWER_TOKENS = 128.0
"""Mean length of an answer that nobody limits."""

_Count = Annotated[int, Field(ge=0)]
_AtLeastOne = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks for.

    Attributes:
        chat: it came to the chat API.
        model: as the client named it; the answer repeats it.
        prompt: the prompt's tokens.
        seed: what the answer's words depend on.
        output_tokens: length of the answer, 1 or more.
        finish_reason: ``stop`` where the answer ended by itself, else ``length``.
        stream: answer as server-sent events.
        usage_in_stream: the last event of the stream tells the usage.
    """

    chat: bool
    model: str
    prompt: bytes
    seed: bytes
    output_tokens: int
    finish_reason: Literal["stop", "length"]
    stream: bool
    usage_in_stream: bool


class _Lenient(BaseModel):
    """Fields that change nothing here, such as the temperature, are taken and ignored, whatever they are."""

    model_config = ConfigDict(extra="ignore", strict=True)


class StreamOptions(_Lenient):
    """``stream_options``."""

    include_usage: bool = False


class _Body(_Lenient):
    model: str = ""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    seed: int | None = None
    max_tokens: _AtLeastOne | None = None
    min_tokens: _Count = 0
    ignore_eos: bool = False


class Message(_Lenient):
    """One message of a chat: a text, or parts of which texts are taken; calls of tools are read as their JSON."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None

    def text(self) -> str:
        """Return all of it as one text.

        Raises:
            UsageError: a part is not a text.
        """
        parts: list[Any] = [{"text": self.content}] if isinstance(self.content, str) else self.content or []
        if not all(isinstance(part.get("text"), str) for part in parts):
            raise UsageError("messages: this engine reads text only")
        calls = json.dumps(self.tool_calls) if self.tool_calls else ""
        return "".join((*(part["text"] for part in parts), calls))


class ChatBody(_Body):
    """Body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: _AtLeastOne | None = None
    tools: list[dict[str, Any]] | None = None

    def ask(self) -> Ask:
        """Return what it asks for."""
        tools = [("system", json.dumps(self.tools))] if self.tools else []
        prompt = chat_tokens([*tools, *((message.role, message.text()) for message in self.messages)])
        return _ask(self, prompt, chat=True, limit=self.max_completion_tokens or self.max_tokens)


class CompletionBody(_Body):
    """Body of ``/v1/completions``: the prompt as text or as token IDs; one prompt, or a list of one."""

    prompt: str | list[_Count] | list[str] | list[list[_Count]]
    max_tokens: _AtLeastOne | None = 16

    def ask(self) -> Ask:
        """Return what it asks for.

        Raises:
            UsageError: there is no prompt, or more than one.
        """
        prompt: Any = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise UsageError(f"prompt: {len(prompt)} prompts in one request; send one at a time")
            prompt = prompt[0]
        tokens = text_tokens(prompt) if isinstance(prompt, str) else id_tokens(prompt)
        if not tokens:
            raise UsageError("prompt: it is empty")
        return _ask(self, tokens, chat=False, limit=self.max_tokens)


def read_body(body: bytes, kind: type[ChatBody] | type[CompletionBody]) -> Ask:
    """Read a request's body.

    Raises:
        UsageError: it cannot be answered; the message names the field.
    """
    try:
        return kind.model_validate_json(body).ask()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise UsageError(f"{where}: {first['msg']}") from None


def _ask(body: _Body, prompt: bytes, *, chat: bool, limit: int | None) -> Ask:
    if body.n not in (None, 1):
        raise UsageError(f"n: {body.n} answers to one prompt are not offered; send n requests, each with its own seed")
    seed = prompt if body.seed is None else prompt + b"%d" % body.seed
    by_itself = max(body.min_tokens, answer_tokens(seed, MEAN_ANSWER_TOKENS))
    cut = limit is not None and (body.ignore_eos or by_itself > limit)
    return Ask(
        chat=chat,
        model=body.model,
        prompt=prompt,
        seed=seed,
        output_tokens=limit if cut and limit is not None else by_itself,
        finish_reason="length" if cut else "stop",
        stream=bool(body.stream),
        usage_in_stream=body.stream_options is not None and body.stream_options.include_usage,
    )
