"""Dialects: how other servers want to be told which program and chain a call belongs to. Pure functions of the call.

A dialect adds headers, or an entry in the JSON body, beside our own headers. Two identities are spoken:

- the *program*, to those that count, limit or show whole runs: its ID as it is;
- the *session*, to those that place calls where the KV of the earlier ones lies: the chain of calls that a thread is.
  Thread 0 speaks as the program itself, so that a program continued by a later turn or process goes on in its session;
  every other thread as ``<program>:<salt>.<thread>``, a child of the former.

A value is made of the characters of IDs, or percent-encoded where it holds the user's name for the program, so it is
always a legal header value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from string import punctuation
from typing import Any
from urllib.parse import quote

from autellix_sdk.wire import CallContext

_LEGAL = " " + punctuation.replace("%", "")
"""Characters besides letters and digits that stand for themselves in a program's name."""

_XARGS, _CONTEXT = "vllm_xargs", "agentic_context"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one kind of server is told about a call.

    Attributes:
        name: what users call it.
        names: every header that it may add to a call, in lower case; none at all if the dialect is spoken in the body.
        headers: the headers that a call carries: some of these.
        body: rewrites a request body; raises `ValueError` or `RecursionError` for one that it cannot rewrite, and
            returns the very same object when the user has spoken for themselves. `None` leaves bodies alone.
    """

    name: str
    names: tuple[str, ...]
    headers: Callable[[CallContext], dict[str, str]]
    body: Callable[[CallContext, bytes], bytes] | None = None


def dynamo(call: CallContext) -> dict[str, str]:
    """NVIDIA Dynamo: the session, and its parent for every thread but the first.

    One session is one chain of reasoning and tool use; its ID groups calls in traces, and keeps them on one worker
    where session affinity is on. ``X-Dynamo-Session-Final`` belongs on a last, dedicated request to the model. A client
    does not know that a call will be the last, and must not make calls of its own, so it is never sent from here.

    Source: https://docs.nvidia.com/dynamo/dev/agents/identify-agent-sessions and
    ``lib/llm/src/protocols/agents.rs`` in ai-dynamo/dynamo.
    """
    headers = {"x-dynamo-session-id": _session(call)}
    if call.thread:
        headers["x-dynamo-parent-session-id"] = call.program
    return headers


def sglang(call: CallContext) -> dict[str, str]:
    """SGLang router and its successor smg: the session as the routing key.

    The ``manual`` and ``consistent_hashing`` policies, and every policy under smg's ``--routing-key-override``, keep
    calls of one key on one worker; keys of more than 128 bytes are ignored, and ours are at most 80. SGLang itself
    reads it for ``--schedule-policy routing-key``.

    Source: ``src/lib/content/concepts/routing/sticky-sessions.md`` in smg-project/smg-docs,
    ``sgl-model-gateway/src/policies/manual.rs`` and ``python/sglang/srt/entrypoints/openai/serving_base.py`` in
    sgl-project/sglang.
    """
    return {"x-smg-routing-key": _session(call)}


def vllm(call: CallContext, body: bytes) -> bytes:
    """vLLM router: the session as the router's "program", in ``vllm_xargs.agentic_context`` of the body.

    With ``--enable-program-scheduling`` the router admits, pauses and resumes such programs as a whole, and places all
    of one task together; to it the agent of thread 0 is the lead, and those of the others are subagents. The context is
    sent as a string of JSON: the router takes an object as well, but the engine behind it accepts only scalars in
    ``vllm_xargs``. Not sent: ``step_id``, which the router counts itself. Nobody knows here whether another call
    follows or a parent waits, so branches say what the router takes for granted of a lead: ``expected_resume`` is true,
    ``blocks_parent`` false.

    Source: ``docs/program_scheduling.md`` and ``src/program_scheduling/identity.rs`` in vllm-project/router;
    ``vllm_xargs`` of ``ChatCompletionRequest`` in vllm-project/vllm.

    Raises:
        ValueError: `body` is not a JSON object, or has a ``vllm_xargs`` that is none, or cannot be written as it was.
        RecursionError: it is nested too deeply.
    """
    record: Any = json.loads(body)
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    xargs = record.get(_XARGS) or {}
    if not isinstance(xargs, dict):
        raise ValueError(f"its {_XARGS} is not a JSON object")
    if _CONTEXT in xargs:
        return body
    context: dict[str, Any] = {"program_id": _session(call), "task_id": call.program}
    if call.thread:
        context |= {"agent_id": _thread(call), "parent_program_id": call.program, "root_program_id": call.program}
    context |= {"blocks_parent": False, "expected_resume": True}
    record[_XARGS] = xargs | {_CONTEXT: json.dumps(context, separators=(",", ":"))}
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def llm_d(call: CallContext) -> dict[str, str]:
    """llm-d router: the program as the fairness ID, under the current name of the header and the older one.

    Flow control queues requests by fairness ID and priority, and shares capacity between the IDs; without one, all
    requests are one flow. Routers that know both names prefer the first; the Gateway API inference extension, and what
    is built on it, know only the second.

    Source: https://llm-d.ai/docs/0.8/api-reference/epp-http-headers and ``pkg/epp/metadata/consts.go`` in
    llm-d/llm-d-router.
    """
    return {
        "x-llm-d-inference-fairness-id": call.program,
        "x-gateway-inference-fairness-id": call.program,
    }


def x_session_id(call: CallContext) -> dict[str, str]:
    """Any server that reads ``x-session-id``: the program.

    The ``consistent_hash`` policy of the vLLM router keeps one ID on one worker; Dynamo takes it for a session when its
    own header is absent; LLMGateway keeps one provider for it.

    Source: ``docs/load_balancing/README.md`` in vllm-project/router, ``lib/llm/src/protocols/agents.rs`` in
    ai-dynamo/dynamo, https://docs.llmgateway.io/features/sessions.
    """
    return {"x-session-id": call.program}


def litellm(call: CallContext) -> dict[str, str]:
    """LiteLLM proxy: the program as the session.

    The proxy makes it both the session and the trace of the call, in its logs, spend records and callbacks, and counts
    the iterations of an agent by it. ``x-litellm-trace-id`` would set the very same two and comes first, so it is left
    to the user.

    Source: ``get_chain_id_from_headers`` in ``litellm/proxy/litellm_pre_call_utils.py`` of BerriAI/litellm,
    https://docs.litellm.ai/docs/proxy/ui_logs_sessions.
    """
    return {"x-litellm-session-id": call.program}


def helicone(call: CallContext) -> dict[str, str]:
    """Helicone: the program as a session, its name, and the thread as the path within it.

    Paths are a tree: calls of thread 0 are at ``/main``, those of the others below it.

    Source: https://docs.helicone.ai/features/sessions and ``worker/src/lib/models/HeliconeHeaders.ts`` in
    Helicone/helicone.
    """
    return {
        "helicone-session-id": call.program,
        "helicone-session-path": f"/main/{_thread(call)}" if call.thread else "/main",
        "helicone-session-name": quote(call.name or "", safe=_LEGAL, errors="replace").strip() or "program",
    }


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("dynamo", ("x-dynamo-session-id", "x-dynamo-parent-session-id"), dynamo),
        Dialect("sglang", ("x-smg-routing-key",), sglang),
        Dialect("vllm", (), lambda _: {}, vllm),
        Dialect("llm-d", ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id"), llm_d),
        Dialect("x-session-id", ("x-session-id",), x_session_id),
        Dialect("litellm", ("x-litellm-session-id",), litellm),
        Dialect("helicone", ("helicone-session-id", "helicone-session-path", "helicone-session-name"), helicone),
    )
}
"""Every dialect there is, by name."""


def find_dialects(names: str | Iterable[str]) -> tuple[Dialect, ...]:
    """Return the dialects of these names, each once.

    Args:
        names: the names, or one text with commas between them.

    Raises:
        TypeError: `names` is neither.
        ValueError: there is no dialect of that name.
    """
    listed = [str(name).strip() for name in (names.split(",") if isinstance(names, str) else names)]
    wanted = dict.fromkeys(name for name in listed if name)
    for name in wanted:
        if name not in DIALECTS:
            raise ValueError(f"there is no {name!r}; the dialects are {', '.join(DIALECTS)}")
    return tuple(DIALECTS[name] for name in wanted)


def _session(call: CallContext) -> str:
    return f"{call.program}:{_thread(call)}" if call.thread else call.program


def _thread(call: CallContext) -> str:
    return f"{call.salt}.{call.thread}"
