"""Calls that begin here and now, and what they have to carry."""

from __future__ import annotations

from collections.abc import Mapping

from autellix_sdk._ledger import Flight
from autellix_sdk._programs import ProgramRecord
from autellix_sdk._runtime import runtime
from autellix_sdk._strands import Strand

_RETRY_HEADER = "x-stainless-retry-count"


def begin_call(strand: Strand, headers: Mapping[str, str] | None = None) -> tuple[ProgramRecord, Flight] | None:
    """Begin a call on the current strand, or repeat its last one.

    Args:
        strand: the strand of the running code.
        headers: the request's, in a mapping that ignores case. Clients of the kind of openai's say there which attempt
            it is; a later one repeats the strand's last call where that was in the same program, and failed.

    Returns:
        The call's program and its flight, or `None` where calls outside a scope are not stamped.
    """
    program = strand.owner.resolve()
    if program is None:
        return None
    if program.reporter is not runtime.reporter:
        program.open()
    last, branch, ledger = strand.last, strand.branch, program.ledger
    if (
        last is not None
        and last.retryable
        and last.ledger is ledger
        and headers is not None
        and (retry := _retries(headers))
    ):
        flight = ledger.begin_again(last, retry)
    else:
        if not strand.followed:
            strand.follow()
        if branch.movers:
            strand.join_children()
        flight = ledger.begin(program.graph.begin(branch))
    strand.last = flight
    return program, flight


def _retries(headers: Mapping[str, str]) -> int:
    """How often the client has tried before."""
    count = headers.get(_RETRY_HEADER, "")
    return int(count) if count.isdecimal() else 0
