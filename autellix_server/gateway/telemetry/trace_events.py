"""Calls of a program as events of the Chrome trace format, which Perfetto reads. Pure.

A thread of the program is a track; calls of one thread that overlap go to further tracks beside it. A call is a slice,
in which lie end to end the parts of its bill: their lengths are the bill's, so that they add up to the call's wall time
exactly, and their order is schematic, since a bill has sums and no intervals. What the gateway saw happen are
instants at their true time. Arrows lead from a call to those that waited for it.

Times are whole microseconds on the gateway's monotonic clock, the same for all programs of a gateway's run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from autellix_sdk.bill import TimeSplit
from autellix_server.gateway.telemetry.events import CallRecord, Stage

Event = dict[str, Any]

_PROCESS = 1
_US = 1_000_000
_QUEUE_ORDER = {"admission": 0, "retraction": 1, "batch": 2}


@dataclass(frozen=True, slots=True)
class Slice:
    """A call's place in the picture.

    Attributes:
        call: the call.
        start_us, end_us: first and one past the last microsecond.
        parts: what its time went into, in order, with microseconds; they add up to it.
        lane: number of its track among those of its thread, 0 unless calls overlap.
    """

    call: CallRecord
    start_us: int
    end_us: int
    parts: tuple[tuple[str, int], ...]
    lane: int


def trace_events(calls: Iterable[CallRecord], now: float, name: str) -> Iterator[Event]:
    """Return the events of one program's calls, those that are in flight drawn until now.

    Args:
        calls: of one program, in any order.
        now: seconds, on the clock of the calls' times.
        name: what the program is called in the picture.
    """
    slices = lay_out(calls, now)
    tracks = {(_thread(each), each.lane): 0 for each in slices}
    for number, key in enumerate(sorted(tracks), start=1):
        tracks[key] = number
    yield _metadata("process_name", 0, {"name": name})
    for ((salt, thread), lane), track in tracks.items():
        title = f"thread {thread} of client {salt}" + (f" #{lane + 1}" if lane else "")
        yield _metadata("thread_name", track, {"name": title})
        yield _metadata("thread_sort_index", track, {"sort_index": track})
    for each in slices:
        yield from _drawn(each, tracks[_thread(each), each.lane])
    for number, (parent, child) in enumerate(_arrows(slices), start=1):
        # An arrow starts inside its slice, and not after it arrives.
        start_us = max(parent.start_us, min(parent.end_us - 1, child.start_us))
        for phase, end, at_us in (("s", parent, start_us), ("f", child, child.start_us)):
            arrow = {"ph": phase, "id": number, "name": "after", "cat": "parent", "ts": at_us}
            yield {**arrow, **_place(tracks[_thread(end), end.lane]), **({"bp": "e"} if phase == "f" else {})}


def lay_out(calls: Iterable[CallRecord], now: float) -> list[Slice]:
    """Return the slices of the calls in order of their start; no two overlap on a lane of a thread.

    A billed call lasts as long as its bill says, since that is what its parts add up to; any other from arrival to end.
    """
    threads: dict[tuple[str, int], _Lanes] = {}
    slices = []
    for call in sorted(calls, key=lambda call: call.arrived_s):
        start_us = _us(call.arrived_s)
        if call.bill is not None:
            parts = _billed(call.bill.time)
        else:
            parts = _seen(call, start_us, max(start_us, _us(now if call.ended_s is None else call.ended_s)))
        end_us = start_us + sum(us for _, us in parts)
        lanes = threads.setdefault((call.context.salt, call.context.thread), _Lanes())
        slices.append(Slice(call, start_us, end_us, tuple(parts), lanes.take(start_us, end_us)))
    return slices


class _Lanes:
    """Tracks of one thread: which are taken until when."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, int]] = []
        self._free: list[int] = []

    def take(self, start_us: int, end_us: int) -> int:
        """Return the first lane that is free, and take it; starts never go back."""
        while self._taken and self._taken[0][0] <= start_us:
            heappush(self._free, heappop(self._taken)[1])
        lane = heappop(self._free) if self._free else len(self._taken)
        heappush(self._taken, (end_us, lane))
        return lane


def _billed(time: TimeSplit) -> list[tuple[str, int]]:
    """Return the parts of a bill."""
    causes = sorted(time.queued_us, key=lambda cause: (_QUEUE_ORDER.get(cause, len(_QUEUE_ORDER)), cause))
    parts = [(f"queued: {cause}", time.queued_us[cause]) for cause in causes]
    parts += [("prefill", time.prefill_us), ("swap", time.swap_us), ("decode", time.decode_us)]
    return [(name, us) for name, us in (*parts, ("other", time.other_us)) if us]


def _seen(call: CallRecord, start_us: int, end_us: int) -> list[tuple[str, int]]:
    """Return what the gateway saw of a call that has no bill, from moment to moment."""
    parts, since_us, doing = [], start_us, "gateway"
    for moment in call.moments:
        at_us = min(max(_us(moment.at_s), since_us), end_us)
        parts.append((doing, at_us - since_us))
        since_us, doing = at_us, _AFTER[moment.stage]
    parts.append((doing, end_us - since_us))
    return [(name, us) for name, us in parts if us]


_AFTER = {
    Stage.HELD: "held",
    Stage.SENT: "engine",
    Stage.FAILED: "gateway",
    Stage.FIRST_BYTE: "answer",
    Stage.BILLED: "answer",
}
"""What a call without a bill does after each moment, as far as the gateway can tell."""


def _drawn(each: Slice, track: int) -> Iterator[Event]:
    call, place = each.call, _place(track)
    name = f"call {call.context.call}" + (f" (retry {call.context.retry})" if call.context.retry else "")
    span = {"ts": each.start_us, "dur": each.end_us - each.start_us}
    yield {"ph": "X", "name": name, "cat": "call", **span, **place, "args": _about(call)}
    start_us = each.start_us
    for part, length_us in each.parts:
        yield {"ph": "X", "name": part, "cat": "part", "ts": start_us, "dur": length_us, **place}
        start_us += length_us
    for moment in call.moments:
        instant = {"ph": "i", "s": "t", "name": moment.stage, "cat": "moment", "ts": _us(moment.at_s)}
        details = {"engine": moment.engine, "reason": moment.reason}
        yield {**instant, **place, "args": {name: text for name, text in details.items() if text}}


def _about(call: CallRecord) -> dict[str, Any]:
    """Return what is shown when a call is selected. None of it is text of the client's or the model's."""
    bill = call.bill
    about: dict[str, Any] = {"path": call.path, "model": call.model, "engine": call.engine, "tenant": call.tenant}
    about["outcome"] = "in flight" if call.outcome is None else str(call.outcome)
    if bill is not None:
        counts = (
            "service_us",
            "prompt_tokens",
            "cached_tokens",
            "output_tokens",
            "recomputed_tokens",
            "swapped_tokens",
        )
        about |= {name: getattr(bill, name) for name in (*counts, "preemptions")} | {"level": list(bill.level)}
    return about


def _arrows(slices: Sequence[Slice]) -> Iterator[tuple[Slice, Slice]]:
    """Return each call with each of its parents that are in the picture.

    A parent is written as its ID alone, or with its salt if another process made it. A call that joins all earlier
    ones is shown after the one that ended last before it.
    """
    known = {(each.call.context.salt, str(each.call.context.call)): each for each in slices}
    latest: Slice | None = None
    by_end = iter(sorted(slices, key=lambda each: each.end_us))
    upcoming = next(by_end, None)
    for child in slices:
        context = child.call.context
        while upcoming is not None and upcoming.end_us <= child.start_us and upcoming is not child:
            latest, upcoming = upcoming, next(by_end, None)
        if context.parents is None:
            if latest is not None:
                yield latest, child
            continue
        for parent in context.parents:
            salt, _, rest = parent.partition(".")
            found = known.get((context.salt, str(parent))) or known.get((salt, rest))
            if found is not None and found is not child and found.start_us <= child.start_us:
                yield found, child


def _thread(each: Slice) -> tuple[str, int]:
    return each.call.context.salt, each.call.context.thread


def _place(track: int) -> Event:
    return {"pid": _PROCESS, "tid": track}


def _metadata(name: str, track: int, args: Event) -> Event:
    return {"ph": "M", "name": name, **_place(track), "args": args}


def _us(at_s: float) -> int:
    return round(at_s * _US)
