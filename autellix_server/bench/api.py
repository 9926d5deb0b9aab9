"""The OpenAI API as the bench speaks it: what a request says, and what a stream of answers means. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from autellix_sdk.bill import CallBill, decode_bill
from autellix_sdk.errors import WireError
from autellix_sdk.wire import BILL_COMMENT
from autellix_server.bench.records import Answer
from autellix_server.errors import ServerError

Api = Literal["completions", "chat"]

FORCINGS: tuple[tuple[str, ...], ...] = (("ignore_eos", "min_tokens"), ("ignore_eos",), ("min_tokens",))
"""Ways of forcing the length of an output beside ``max_tokens``, the surest first; a server may refuse a field."""

_SHOWN_CHARACTERS = 200


class CallFailure(ServerError):
    """A call came to nothing; the message is short and the same for all calls that fail alike."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to talk to one server.

    Attributes:
        api: which of its two endpoints gets the prompts.
        model: name that it knows its model by.
        forcing: one of `FORCINGS`; empty leaves the length to the model, up to the one asked for.
    """

    api: Api
    model: str
    forcing: tuple[str, ...] = FORCINGS[0]

    @property
    def path(self) -> str:
        """Path of the endpoint."""
        return "/v1/completions" if self.api == "completions" else "/v1/chat/completions"

    def body(self, prompt: str, tokens: int) -> dict[str, Any]:
        """Return the body of a request.

        Args:
            prompt: the prompt; to the chat API it is one message of the user's.
            tokens: output length, 1 or more.
        """
        text = {"prompt": prompt} if self.api == "completions" else {"messages": [{"role": "user", "content": prompt}]}
        values: Mapping[str, Any] = {"ignore_eos": True, "min_tokens": tokens}
        return {
            "model": self.model,
            **text,
            "max_tokens": tokens,
            **{name: values[name] for name in self.forcing},
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


@dataclass(slots=True)
class AnswerReader:
    """Reads a stream of server-sent events, however it is cut into chunks.

    Args:
        clock: tells the time, in seconds.
    """

    clock: Callable[[], float]
    _rest: bytes = b""
    _texts: list[str] = field(default_factory=list)
    _first_s: float | None = None
    _usage: Mapping[str, Any] = field(default_factory=dict)
    _bill: CallBill | None = None
    _done: bool = False

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk.

        Raises:
            CallFailure: the stream says that something failed, or is no stream of completions.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())
            elif line.startswith(BILL_COMMENT):
                self._take_bill(line[len(BILL_COMMENT) :])

    def answer(self) -> Answer:
        """Return what came, once the stream has ended.

        Raises:
            CallFailure: it ended too early.
        """
        if not self._done:
            raise CallFailure("the stream ended before its answer did")
        now = self.clock()
        prompt, output = self._usage.get("prompt_tokens"), self._usage.get("completion_tokens")
        first_s = now if self._first_s is None else self._first_s
        return Answer("".join(self._texts), first_s, now, prompt, output, self._bill)

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._done = True
            return
        try:
            event = json.loads(data)
            if "error" in event:
                raise CallFailure(f"the stream broke off: {error_words(event)}")
            self._usage = event.get("usage") or self._usage
            for choice in event.get("choices", ()):
                self._take_text(choice.get("delta") or choice)
        except (ValueError, AttributeError, TypeError) as error:
            raise CallFailure("the answer is no stream of completions") from error

    def _take_text(self, part: Mapping[str, Any]) -> None:
        """Keep text; a token of reasoning is a token too, but no part of what later prompts repeat."""
        text = part.get("text") or part.get("content") or ""
        if self._first_s is None and (text or part.get("reasoning_content")):
            self._first_s = self.clock()
        self._texts.append(text)

    def _take_bill(self, line: bytes) -> None:
        try:
            self._bill = decode_bill(line)
        except WireError:
            self._bill = None  # counted as a call without a bill


def error_words(reply: object) -> str:
    """Return what an error reply says, shortened: its message where it has the shape that OpenAI clients expect."""
    words = reply
    if isinstance(reply, Mapping):
        error = reply.get("error", reply)
        words = error.get("message", error) if isinstance(error, Mapping) else error
    text = " ".join(str(words).split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
