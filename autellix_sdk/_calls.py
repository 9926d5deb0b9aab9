"""Calls that begin here and now, and what they have to carry."""

from __future__ import annotations

from collections.abc import Mapping

from autellix_sdk._ledger import Flight
from autellix_sdk._programs import ProgramRecord
from autellix_sdk._runtime import runtime
from autellix_sdk._strands import Strand

_RETRY_HEADER = "x-stainless-retry-count"


def retries(strand: Strand, headers: Mapping[str, str]) -> int:
    """Return how often a request repeats the last call of its strand; 0 for a call of its own.

    Args:
        strand: the strand of the running code.
        headers: the request's, in a mapping that ignores case. Clients of the kind of openai's count retries there.
    """
    if strand.last is None or not strand.last.retryable:
        return 0
    count = headers.get(_RETRY_HEADER, "")
    return int(count) if count.isdecimal() else 0


def begin_call(strand: Strand, retry: int = 0) -> tuple[ProgramRecord, Flight] | None:
    """Begin a call on the current strand, or repeat its last one.

    Args:
        strand: the strand of the running code.
        retry: 0 for a new call; else the number of the attempt, which repeats the strand's last call where that was
            in the same program.

    Returns:
        The call's program and its flight, or `None` where calls outside a scope are not stamped.
    """
    program = strand.owner.resolve()
    if program is None:
        return None
    if program.reporter is not runtime.reporter:
        program.open()
    last = strand.last
    if retry and last is not None and last.ledger is program.ledger:
        flight = program.ledger.begin_again(last, retry)
    else:
        if strand.branch.movers:
            strand.join_children()
        flight = program.ledger.begin(program.graph.begin(strand.branch))
    strand.last = flight
    return program, flight
