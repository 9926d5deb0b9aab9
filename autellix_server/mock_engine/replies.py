"""The OpenAI API's replies: whole bodies, events of streams, and errors. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from autellix_sdk.bill import CallBill
from autellix_sdk.wire import BILL_COMMENT
from autellix_server.mock_engine.requests import Ask
from autellix_server.mock_engine.tokens import count

DONE = b"data: [DONE]\n\n"


class Reply:
    """The answer to one request, in the shape of the API that it came to.

    Args:
        ask: the request.
        id: of the answer.
        model: name of the model, where the request gave none.
        created_s: time of day in whole seconds.
        words: the whole answer, in letters of ASCII.
    """

    def __init__(self, ask: Ask, id: str, model: str, created_s: int, words: Sequence[str]) -> None:  # noqa: A002
        self._ask = ask
        self._words = words
        kind = "chat.completion" if ask.chat else "text_completion"
        self._head = {"id": id, "object": kind, "created": created_s, "model": ask.model or model}
        self._chunk_head = {**self._head, "object": f"{kind}.chunk" if ask.chat else kind}
        # Words need no escaping: all events of tokens are alike but for their word.
        event = self._event({"delta": {"content": "\0"}} if ask.chat else {"text": "\0"})
        self._before, self._after = event.split(b"\\u0000")

    def whole(self, cached_tokens: int) -> bytes:
        """Return the body of an answer that is not streamed."""
        text, choice = _text(self._words), {"index": 0, "logprobs": None, "finish_reason": self._ask.finish_reason}
        content = {"message": {"role": "assistant", "content": text}} if self._ask.chat else {"text": text}
        return json.dumps(
            {**self._head, "choices": [{**choice, **content}], "usage": self._usage(cached_tokens)}
        ).encode()

    def opening(self) -> bytes:
        """Return what a stream begins with."""
        return self._event({"delta": {"role": "assistant", "content": ""}}) if self._ask.chat else b""

    def tokens(self, begin: int, end: int) -> bytes:
        """Return the events of the tokens from `begin` up to `end`, one each."""
        before, after = self._before + b" ", self._after
        return b"".join(before + word.encode() + after for word in self._words[begin:end])

    def closing(self, cached_tokens: int, bill: CallBill) -> bytes:
        """Return what a stream ends with, the bill included."""
        last = self._event({"delta": {}} if self._ask.chat else {"text": ""}, self._ask.finish_reason)
        usage = _sse({**self._chunk_head, "choices": [], "usage": self._usage(cached_tokens)})
        comment = BILL_COMMENT + bill.encode().encode("ascii") + b"\n\n"
        return last + (usage if self._ask.usage_in_stream else b"") + comment + DONE

    def _usage(self, cached_tokens: int) -> dict[str, Any]:
        prompt_tokens, completion_tokens = count(self._ask.prompt), len(self._words)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }

    def _event(self, content: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return _sse({**self._chunk_head, "choices": [choice]})


def error_body(message: str, status: int) -> dict[str, Any]:
    """Return an error object as OpenAI clients read it."""
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    return {"error": {"message": message, "type": kind, "code": status, "param": None}}


def _text(words: Sequence[str]) -> str:
    return "".join(f" {word}" for word in words)


def _sse(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
