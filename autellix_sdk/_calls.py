"""Stamping: what a call that begins here and now has to carry."""

from __future__ import annotations

from autellix_sdk._ledger import Flight
from autellix_sdk._strands import Strand
from autellix_sdk.wire import ProgramId, format_call


def begin_call(strand: Strand, retry: int = 0) -> tuple[Flight, ProgramId, str] | None:
    """Begin a call on the current strand, or repeat its last one.

    Args:
        strand: the strand of the running code.
        retry: 0 for a new call; else the number of the attempt, which repeats the strand's last call where that was
            in the same program.

    Returns:
        The call's flight and the values of its two headers, or `None` where calls outside a scope are not stamped.
    """
    program = strand.owner.resolve()
    if program is None:
        return None
    if program.ledger.ended:
        program.reopen()
    last = strand.last
    if retry and last is not None and last.ledger is program.ledger:
        flight = program.ledger.begin_again(last)
    else:
        flight = program.ledger.begin(program.graph.begin(strand.branch))
    strand.last = flight
    thread, call, parents = flight.node
    return flight, program.id, format_call(program.salt, thread, call, parents, retry, program.name_field)
