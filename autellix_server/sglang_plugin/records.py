"""What travels between SGLang's HTTP process and its scheduler about one engine request. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from autellix_server.scheduling.shares import NO_TENANT, TenantStanding
from autellix_server.stamp import EndedProgram


@dataclass(frozen=True, slots=True)
class CallTag:
    """Down: identity and account of a call at its arrival.

    Attributes:
        program, call: IDs.
        base_service_us: the program's attained service; decides the start level.
        base_wait_us: the program's waiting time.
        program_class: what programs of its kind have in common, the name that the SDK gives; empty: not known.
        single_call: the program is this call alone.
        tenant: where its tenant stands among the others.
        ended: programs that ended since the last tag was sent.
    """

    program: str
    call: str
    base_service_us: int
    base_wait_us: int = 0
    program_class: str = ""
    single_call: bool = False
    tenant: TenantStanding = NO_TENANT
    ended: tuple[EndedProgram, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """Return the tag as plain builtins."""
        ended = [tuple(program) for program in self.ended]
        return asdict(self) | {"tenant": astuple(self.tenant), "ended": ended}


def read_tag(record: Mapping[str, Any]) -> CallTag:
    """Return the tag that `CallTag.to_wire` made a record of."""
    ended = tuple(EndedProgram(*program) for program in record["ended"])
    return CallTag(**{**record, "tenant": TenantStanding(*record["tenant"]), "ended": ended})


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """Up: what the scheduler reports of one engine request when it finishes; travels to the HTTP process as a dict.

    Attributes:
        program, call: identity, as the scheduler was told it.
        arrived_us, finished_us: ends of the line; `queued_us`, `prefill_us` and `decode_us` lie between them and add
            up to their difference.
        level: priority level at arrival and at the end.
    """

    program: str
    call: str
    arrived_us: int
    finished_us: int
    queued_us: dict[str, int]
    prefill_us: int
    decode_us: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    recomputed_tokens: int
    swapped_tokens: int
    preemptions: int
    level: tuple[int, int]

    @property
    def service_us(self) -> int:
        """Time of every step the request took part in."""
        return self.prefill_us + self.decode_us

    def to_wire(self) -> dict[str, Any]:
        """Return the record as plain builtins."""
        return asdict(self)


def critical_path(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    """Return the chain of requests that the HTTP call waited for, latest first.

    One HTTP call can make several engine requests, side by side (``n > 1``) or one after the other (tool rounds). Going
    back from the one that finished last, each next one is the last to finish before the previous one arrived. Their
    lines do not overlap, so their sum never exceeds the call's wall time.
    """
    chain: list[RequestRecord] = []
    before_us: float = float("inf")
    for record in sorted(records, key=lambda record: record.finished_us, reverse=True):
        if record.finished_us <= before_us:
            chain.append(record)
            before_us = record.arrived_us
    return chain
