"""Carrying identity to other processes: process pools, job queues, HTTP to workers of one's own."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, TypeVar, overload

from autellix_sdk._faults import faults
from autellix_sdk._graph import Branch, qualify
from autellix_sdk._handles import Handle, capture
from autellix_sdk._programs import ProgramRecord
from autellix_sdk._runtime import runtime
from autellix_sdk.errors import WireError
from autellix_sdk.wire import CONTINUE_HEADER, JOINS_ALL, CallId, decode_continue, format_continue

M = TypeVar("M", bound=MutableMapping[str, str])


@overload
def inject() -> dict[str, str]: ...


@overload
def inject(headers: M) -> M: ...


def inject(headers: Any = None) -> Any:
    """Write where the running code stands into `headers`, for a process that will `extract` it.

    Args:
        headers: request headers, or any mapping of strings that travels with the job; changed in place, by
            default a new dictionary. What it says so far about where its sender stood is replaced, or removed where the
            running code belongs to no program, and while the client is off.

    Returns:
        `headers`.
    """
    headers = {} if headers is None else headers
    for name in [name for name in headers if str(name).lower() == CONTINUE_HEADER]:
        headers.pop(name, None)
    if runtime.settings is None:
        return headers
    program, branch = capture()._place()
    if isinstance(program, ProgramRecord):
        program.injected = True
        if program.reporter is not runtime.reporter:
            program.open()
        # The code may stand in an implicit program that was idle, and has just been followed by this one.
        calls = branch.frontier if branch.graph is program.graph else None
        parents = qualify(calls or (), program.salt)
        runtime.carries = True
        headers[CONTINUE_HEADER] = format_continue(program.id, parents, program.name_field)
    return headers


def extract(headers: Mapping[str, str]) -> Handle:
    """Return a handle of where the sender of `headers` stood when it called `inject`.

    Calls made through it belong to the sender's program and have the sender's calls as parents; their IDs are salted,
    so that no two processes make the same. The program's end stays the sender's business.

    Args:
        headers: request headers, in upper or lower case, or what travelled with the job. Take them only from callers
            that may put calls into programs of yours.

    Returns:
        The handle. Where `headers` says nothing, or nothing that can be read, it leads to where the running code
        stands; what cannot be read is logged once, and never raised.
    """
    return sender_of(headers) or capture()


def sender_of(headers: Mapping[str, str]) -> Handle | None:
    """Return what `extract` does; `None` where `headers` says nothing that can be read."""
    try:  # a job from a queue may hold anything
        text = next((value for name, value in headers.items() if str(name).lower() == CONTINUE_HEADER), None)
        if text is None:
            return None
        runtime.carries = True
        program_id, parents, name = decode_continue(str(text))
    except (AttributeError, TypeError, ValueError, WireError) as error:
        faults.record("who a job or request belongs to could not be read", error)
        return None
    program = ProgramRecord.join(name, program_id)
    own = f"{program.salt}."
    frontier = (CallId(JOINS_ALL),) if parents is None else tuple([CallId(p.removeprefix(own)) for p in parents])
    branch = Branch(program.main_branch, program.graph, frontier)
    branch.finish()
    return Handle(program, branch)
