"""The timeline of a program: its latest calls, kept in bounded memory, and shown as a trace for Perfetto."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from aiohttp import web

from autellix_sdk.wire import ProgramId
from autellix_server.gateway.replies import error_reply
from autellix_server.gateway.telemetry.events import CallRecord, Listener
from autellix_server.gateway.telemetry.trace_events import trace_events

_EVENTS_AT_ONCE = 200
"""Encoded in one go: a millisecond, after which other calls have their turn."""


@dataclass(frozen=True, slots=True)
class TimelineLimits:
    """How much is remembered. A call takes 1.6 KB, with the longest headers 4.3 KB: the defaults 16 MB, at most 45 MB.

    Attributes:
        calls: calls in all, at least `calls_per_program`; above it the program that was quiet for longest is forgotten.
        calls_per_program: of one program; above it its oldest is forgotten.
        programs: programs in all.
    """

    calls: int = 10_000
    calls_per_program: int = 1_000
    programs: int = 2_000


@dataclass(slots=True)
class _Track:
    calls: deque[CallRecord]
    forgotten: int = 0


class Timelines(Listener):
    """Keeps the latest calls of the latest programs. Calls without a program leave nothing behind.

    Args:
        limits: how much is kept.
    """

    def __init__(self, limits: TimelineLimits | None = None) -> None:
        self._limits = limits or TimelineLimits()
        self._tracks: OrderedDict[ProgramId, _Track] = OrderedDict()
        self._calls = 0

    def __len__(self) -> int:
        """Return how many calls are kept."""
        return self._calls

    def call_arrived(self, call: CallRecord) -> None:
        """Keep a call; what happens to it later is in the same record."""
        if call.single_call:
            return
        program = call.context.program
        track = self._tracks.get(program)
        if track is None:
            track = self._tracks[program] = _Track(deque())
        else:
            self._tracks.move_to_end(program)
        if len(track.calls) >= self._limits.calls_per_program:
            track.calls.popleft()
            track.forgotten += 1
            self._calls -= 1
        track.calls.append(call)
        self._calls += 1
        while len(self._tracks) > 1 and (self._calls > self._limits.calls or len(self._tracks) > self._limits.programs):
            self._calls -= len(self._tracks.popitem(last=False)[1].calls)

    def calls(self, program: ProgramId) -> tuple[CallRecord, ...]:
        """Return the calls kept of a program in order of arrival, none for one that is not known."""
        track = self._tracks.get(program)
        return () if track is None else tuple(track.calls)

    def forgotten(self, program: ProgramId) -> int:
        """Return how many earlier calls of a program are not kept any more."""
        track = self._tracks.get(program)
        return 0 if track is None else track.forgotten


class TimelineApi:
    """Handler of ``GET /autellix/v1/programs/{id}/timeline``.

    Args:
        timelines: what is remembered.
        clock: of the ledger, in seconds.
        program_of: returns the program that a request asks for, scoped to who asks.
    """

    def __init__(
        self,
        timelines: Timelines,
        clock: Callable[[], float],
        program_of: Callable[[web.Request], ProgramId] = lambda request: ProgramId(request.match_info["id"]),
    ) -> None:
        self._timelines = timelines
        self._clock = clock
        self._program_of = program_of

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with trace event JSON, written piece by piece."""
        program = self._program_of(request)
        calls = self._timelines.calls(program)
        if not calls:
            return error_reply(404, "no call of such a program is remembered", "unknown_program")
        forgotten = self._timelines.forgotten(program)
        name = calls[-1].context.name or request.match_info["id"]
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        async for piece in pieces(trace_events(calls, self._clock(), name), forgotten):
            await response.write(piece)
        await response.write_eof()
        return response


async def pieces(events: Iterable[object], forgotten: int) -> AsyncIterator[bytes]:
    """Return the JSON object of a trace, cut where other calls have their turn.

    Args:
        events: of the trace.
        forgotten: calls that are not in it.
    """
    about = json.dumps({"calls_forgotten": forgotten})
    yield b'{"displayTimeUnit":"ms","otherData":' + about.encode() + b',"traceEvents":['
    separator = ""
    for batch in _batches(iter(events)):
        yield (separator + ",".join(json.dumps(event, separators=(",", ":")) for event in batch)).encode()
        separator = ","
        await asyncio.sleep(0)  # A socket that takes all at once would not let others have their turn.
    yield b"]}\n"


def _batches(events: Iterator[object]) -> Iterator[list[object]]:
    while batch := list(islice(events, _EVENTS_AT_ONCE)):
        yield batch
