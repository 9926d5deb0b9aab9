"""What the model says, in the words of each API: chat completions, Responses and Messages, whole or as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


@dataclass(frozen=True)
class Use:
    """The model wants a tool to be used."""

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)


Reply = str | tuple[Use, ...]
"""What the model answers: a text, or tools to use."""


def chat_completion(number: int, reply: Reply) -> dict[str, Any]:
    """The body of a chat completion."""
    choice = {"index": 0, "message": _chat_message(number, reply), "finish_reason": _chat_reason(reply)}
    return _chat("chat.completion", choice)


def chat_chunks(number: int, reply: Reply) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a streamed chat completion."""
    delta = _chat_message(number, reply)
    for index, use in enumerate(delta.get("tool_calls", ())):
        use["index"] = index
    yield "", _chat("chat.completion.chunk", {"index": 0, "delta": delta, "finish_reason": None})
    yield "", _chat("chat.completion.chunk", {"index": 0, "delta": {}, "finish_reason": _chat_reason(reply)})


def _chat(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "chat-1", "object": kind, "created": 0, "model": "m", "choices": [choice], "usage": USAGE}


def _chat_message(number: int, reply: Reply) -> dict[str, Any]:
    if isinstance(reply, str):
        return {"role": "assistant", "content": reply}
    uses = [
        {
            "id": _use_id(number, index),
            "type": "function",
            "function": {"name": use.tool, "arguments": json.dumps(use.arguments)},
        }
        for index, use in enumerate(reply)
    ]
    return {"role": "assistant", "content": None, "tool_calls": uses}


def _chat_reason(reply: Reply) -> str:
    return "stop" if isinstance(reply, str) else "tool_calls"


def response(number: int, reply: Reply) -> dict[str, Any]:
    """The body of a Responses answer."""
    if isinstance(reply, str):
        content = [{"type": "output_text", "text": reply, "annotations": []}]
        output = [_item(number, 0, "message", role="assistant", content=content)]
    else:
        output = [
            _item(
                number,
                index,
                "function_call",
                call_id=_use_id(number, index),
                name=use.tool,
                arguments=json.dumps(use.arguments),
            )
            for index, use in enumerate(reply)
        ]
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    said = {"id": f"response-{number}", "object": "response", "created_at": 0, "status": "completed", "model": "m"}
    asked = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    return said | asked | {"output": output, "usage": usage | details}


def response_events(number: int, reply: Reply) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a streamed Responses answer."""
    whole = response(number, reply)
    steps: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": whole | {"status": "in_progress", "output": []}})
    ]
    for index, item in enumerate(whole["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        begun = item | ({"content": []} if item["type"] == "message" else {"arguments": ""})
        steps.append(("response.output_item.added", {"output_index": index, "item": begun}))
        if item["type"] == "message":
            (part,) = item["content"]
            place["content_index"] = 0
            steps.append(("response.content_part.added", place | {"part": part | {"text": ""}}))
            steps.append(("response.output_text.delta", place | {"delta": part["text"], "logprobs": []}))
            steps.append(("response.output_text.done", place | {"text": part["text"], "logprobs": []}))
            steps.append(("response.content_part.done", place | {"part": part}))
        else:
            steps.append(("response.function_call_arguments.delta", place | {"delta": item["arguments"]}))
            steps.append(("response.function_call_arguments.done", place | {"arguments": item["arguments"]}))
        steps.append(("response.output_item.done", {"output_index": index, "item": item}))
    steps.append(("response.completed", {"response": whole}))
    for count, (kind, step) in enumerate(steps):
        yield kind, {"type": kind, "sequence_number": count} | step


def _item(number: int, index: int, kind: str, **values: Any) -> dict[str, Any]:
    return {"type": kind, "id": f"item-{number}-{index}", "status": "completed"} | values


def message(number: int, reply: Reply) -> dict[str, Any]:
    """The body of a Messages answer."""
    if isinstance(reply, str):
        content: list[dict[str, Any]] = [{"type": "text", "text": reply}]
    else:
        content = [
            {"type": "tool_use", "id": _use_id(number, index), "name": use.tool, "input": use.arguments}
            for index, use in enumerate(reply)
        ]
    reason = "end_turn" if isinstance(reply, str) else "tool_use"
    usage = {"input_tokens": 1, "output_tokens": 1}
    said = {"id": f"message-{number}", "type": "message", "role": "assistant", "model": "m", "content": content}
    return said | {"stop_reason": reason, "stop_sequence": None, "usage": usage}


def message_events(number: int, reply: Reply) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a streamed Messages answer."""
    whole = message(number, reply)
    steps: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": whole | {"content": [], "stop_reason": None}})
    ]
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            begun, delta = block | {"text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            begun = block | {"input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        steps.append(("content_block_start", {"index": index, "content_block": begun}))
        steps.append(("content_block_delta", {"index": index, "delta": delta}))
        steps.append(("content_block_stop", {"index": index}))
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    steps.append(("message_delta", {"delta": ended, "usage": {"output_tokens": 1}}))
    steps.append(("message_stop", {}))
    for kind, step in steps:
        yield kind, {"type": kind} | step


def _use_id(number: int, index: int) -> str:
    return f"use_{number}_{index}"


WHOLE = {"/chat/completions": chat_completion, "/responses": response, "/messages": message}
"""Makes the body, by how the path ends."""

STREAMED = {"/chat/completions": chat_chunks, "/responses": response_events, "/messages": message_events}
"""Makes the events of a stream, by how the path ends."""


def events_text(path_end: str, number: int, reply: Reply) -> bytes:
    """A whole stream as it is sent."""
    lines = [
        (f"event: {kind}\n" if kind else "") + f"data: {json.dumps(event)}\n\n"
        for kind, event in STREAMED[path_end](number, reply)
    ]
    if path_end == "/chat/completions":
        lines.append("data: [DONE]\n\n")
    return "".join(lines).encode()
