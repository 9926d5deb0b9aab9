"""What the HTTP process tells the scheduler about a call, inside SGLang's own KV-hint envelope.

The envelope is a typed field that SGLang carries from the HTTP process to every scheduler rank and whose unknown
actions it ignores. A client can send one too, so `attach` removes whatever claims to be ours.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.managers.kv_hints import KvHintAction, KvHintsEnvelope, decode_kv_hints_envelope

from autellix_server.sglang_plugin.records import CallTag, read_tag

_ACTION = "autellix.call"


def attach(hints: Any, tag: CallTag) -> Any:
    """Return the request's envelope, or list of them, with `tag` in it and no action of our type made by a client.

    Raises:
        ValueError: the client's own envelope is malformed.
    """
    if isinstance(hints, list):
        return [attach(hint, tag) for hint in hints]
    envelope = decode_kv_hints_envelope(hints) if hints else KvHintsEnvelope(protocol_version="1", message_id="")
    action = KvHintAction(action_id="", action_type=_ACTION, action_version="1", payload=tag.to_wire())
    others = [known for known in envelope.actions if known.action_type != _ACTION]
    return KvHintsEnvelope(
        protocol_version=envelope.protocol_version, message_id=envelope.message_id, actions=[*others, action]
    )


def read(hints: KvHintsEnvelope | None) -> CallTag | None:
    """Return the tag that the HTTP process attached, or `None` for a request that did not come through it."""
    for action in hints.actions if hints else ():
        if action.action_type == _ACTION:
            return read_tag(action.payload)
    return None
