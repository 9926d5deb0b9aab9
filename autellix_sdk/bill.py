"""The time bill: where the wall time of a call, or of a whole program, went. Times are whole microseconds.

On the wire a call's bill is one line of JSON, in the response header `wire.BILL_HEADER` or in an SSE comment that
starts with `wire.BILL_COMMENT`. Integers make the sum exact: ``queued + prefill + decode + swap + other == wall``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autellix_sdk._views import bill_table, bill_text
from autellix_sdk.errors import WireError
from autellix_sdk.wire import CallId, ProgramId


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Wall time split by what the server did with it, in microseconds. The parts add up to `wall_us` exactly.

    Attributes:
        queued_us: waiting time by cause: ``admission`` (in the queue, not yet started), ``retraction`` (back in the
            queue after it ran, to make room for a better call or for want of memory), ``batch`` (admitted, but a step
            ran without it).
        prefill_us: steps that computed this call's prompt.
        decode_us: steps that produced its output tokens.
        swap_us: moving its KV between device and host, where that can be told apart: SGLang overlaps it with steps.
        other_us: everything else: HTTP, tokenizing, detokenizing, hand-over between processes.
    """

    queued_us: Mapping[str, int] = field(default_factory=dict)
    prefill_us: int = 0
    decode_us: int = 0
    swap_us: int = 0
    other_us: int = 0

    @property
    def total_queued_us(self) -> int:
        """Waiting time over all causes."""
        return sum(self.queued_us.values())

    @property
    def wall_us(self) -> int:
        """Server wall time: the sum of all parts."""
        return self.total_queued_us + self.prefill_us + self.decode_us + self.swap_us + self.other_us

    def __add__(self, more: TimeSplit) -> TimeSplit:
        """Add part by part; waiting causes are joined."""
        causes = {*self.queued_us, *more.queued_us}
        return TimeSplit(
            {cause: self.queued_us.get(cause, 0) + more.queued_us.get(cause, 0) for cause in sorted(causes)},
            self.prefill_us + more.prefill_us,
            self.decode_us + more.decode_us,
            self.swap_us + more.swap_us,
            self.other_us + more.other_us,
        )


@dataclass(frozen=True, slots=True)
class CallBill:
    """The bill of one call, as the server measured it.

    Attributes:
        program: program the call ran in.
        call: call ID.
        engine: name of the engine that ran it.
        time: where the server's wall time went.
        service_us: attained service charged to the program: full time of every engine step the call took part in,
            summed over parallel samples (``n > 1``), so it may exceed prefill + decode.
        prompt_tokens, cached_tokens, output_tokens: token counts, summed over the engine requests that the call made;
            cached ones were not computed again.
        recomputed_tokens: tokens computed a second time after an eviction.
        swapped_tokens: tokens whose KV was moved to host while the call had lost its place, and back.
        preemptions: times the call lost its place while running.
        level: priority level at arrival and at the end; 0 is the best.
    """

    program: ProgramId
    call: CallId
    engine: str
    time: TimeSplit
    service_us: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    recomputed_tokens: int = 0
    swapped_tokens: int = 0
    preemptions: int = 0
    level: tuple[int, int] = (0, 0)

    def encode(self) -> str:
        """Encode as one line of ASCII JSON, fit for a header value and for an SSE comment."""
        return json.dumps(_flat(self), separators=(",", ":"))


def decode_bill(text: str | bytes) -> CallBill:
    """Decode a call's bill; unknown fields are ignored.

    Raises:
        WireError: not JSON, a field missing or of the wrong type, or parts that do not add up to ``wall_us``.
    """
    try:
        record: dict[str, Any] = json.loads(text)
        time = _time_from_json(record)
        first_level, last_level = record["level"]
        bill = CallBill(
            ProgramId(str(record["program"])),
            CallId(str(record["call"])),
            str(record["engine"]),
            time,
            level=(_count(first_level), _count(last_level)),
            **{name: _count(record[name]) for name in _CALL_COUNTS},
        )
        wall_us = _count(record["wall_us"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise WireError(f"time bill cannot be read: {type(error).__name__}: {error}") from error
    if wall_us != time.wall_us:
        raise WireError(f"time bill does not add up: parts sum to {time.wall_us} us, wall_us is {wall_us}")
    return bill


_CALL_COUNTS = (
    "service_us",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "recomputed_tokens",
    "swapped_tokens",
    "preemptions",
)
_PROGRAM_COUNTS = (
    "calls",
    "pending",
    "threads",
    "service_us",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "preemptions",
    "elapsed_us",
    "tool_us",
)
_MAX_COUNT = 2**63 - 1
_LATER_PROGRAM_COUNTS = ("recomputed_tokens", "swapped_tokens")
"""Fields that servers of the same wire version may leave out."""


def _flat(bill: CallBill | ProgramBill) -> dict[str, Any]:
    """Return the bill's fields with those of its time split beside them, and the wall time."""
    fields = {name: getattr(bill, name) for name in bill.__slots__ if name != "time"}
    return fields | {name: getattr(bill.time, name) for name in TimeSplit.__slots__} | {"wall_us": bill.time.wall_us}


def _time_from_json(record: Mapping[str, Any]) -> TimeSplit:
    return TimeSplit(
        {str(cause): _count(us) for cause, us in record["queued_us"].items()},
        *(_count(record[part]) for part in ("prefill_us", "decode_us", "swap_us", "other_us")),
    )


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise ValueError(f"expected a count of 0 to {_MAX_COUNT}, got {value!r:.40}")
    return value


@dataclass(frozen=True, slots=True)
class ProgramBill:
    """The bill of a whole program: the sum over its calls, and what happened outside the server.

    Attributes:
        program: program ID.
        name: program name, or `None`.
        calls: calls billed so far.
        pending: calls whose bill has not arrived (streams, until the program's end is acknowledged).
        threads: chains in the call graph.
        time: sum over calls; calls that ran side by side add up, so this may exceed `elapsed_us`.
        service_us: attained service, summed over calls.
        prompt_tokens, cached_tokens, output_tokens, preemptions: sums over calls.
        elapsed_us: the program's wall time, from its start to its end, or until now.
        tool_us: part of `elapsed_us` during which no call was in flight.
        recomputed_tokens, swapped_tokens: sums over calls; 0 also where the server does not say.
    """

    program: ProgramId
    name: str | None
    calls: int
    pending: int
    threads: int
    time: TimeSplit
    service_us: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    preemptions: int
    elapsed_us: int
    tool_us: int
    recomputed_tokens: int = 0
    swapped_tokens: int = 0

    def __str__(self) -> str:
        """Return the bill as lines of text: size, where the time went, tokens."""
        return bill_text(self)

    def __rich__(self) -> object:
        """Return the bill as a table; rich asks for it when it prints a bill."""
        return bill_table(self)

    def to_json(self) -> dict[str, Any]:
        """JSON object of the programs API: the fields above, the time split flattened, and ``wall_us``."""
        return _flat(self)


def program_bill_from_json(record: Mapping[str, Any]) -> ProgramBill:
    """Read the object that `ProgramBill.to_json` writes; unknown fields are ignored.

    Raises:
        WireError: a field is missing or of the wrong type.
    """
    try:
        name = record["name"]
        return ProgramBill(
            program=ProgramId(str(record["program"])),
            name=None if name is None else str(name),
            time=_time_from_json(record),
            **{key: _count(record[key]) for key in _PROGRAM_COUNTS},
            **{key: _count(record.get(key, 0)) for key in _LATER_PROGRAM_COUNTS},
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WireError(f"program bill cannot be read: {type(error).__name__}: {error}") from error


def sum_time(bills: Iterable[CallBill]) -> TimeSplit:
    """Sum of the time splits of several calls."""
    return sum((bill.time for bill in bills), TimeSplit())
