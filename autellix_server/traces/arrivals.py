"""When programs arrive: as a Poisson process, or at the times of the trace."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from autellix_sdk.errors import UsageError
from autellix_server.traces.model import MAX_PROGRAM_ID, TraceProgram, fault


def poisson_times(rate: float, rng: random.Random) -> Iterator[float]:
    """Yield arrival times of a Poisson process without end, in seconds from 0.

    Args:
        rate: programs a second, above 0.
        rng: source of randomness; the same state gives the same times, whatever the rate, but for their scale.

    Raises:
        UsageError: the rate is not above 0.

    Source: Autellix section 8: programs, not calls, arrive as a Poisson process.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"rate is {rate}; use a number of programs a second above 0")
    return itertools.accumulate(rng.expovariate(1.0) / rate for _ in itertools.count())


def arrive_at(programs: Iterable[TraceProgram], times: Iterable[float]) -> Iterator[TraceProgram]:
    """Yield the programs with new arrival times, one each, until either runs out.

    The times of their calls (`TraceCall.t`) are dropped: they belong to the arrivals that are replaced.
    """
    for program, time_s in zip(programs, times, strict=False):
        calls = tuple(call if call.t is None else replace(call, t=None) for call in program.calls)
        yield replace(program, arrival_seconds=time_s, calls=calls)


def in_order_of_arrival(programs: Iterable[TraceProgram], speed: float = 1.0) -> list[TraceProgram]:
    """Return the programs by the arrival times of their trace, the first of them at 0.

    Args:
        programs: each with a time.
        speed: how many times faster than in the trace they arrive, above 0.

    Raises:
        TraceError: a program has no time.
        UsageError: the speed is not above 0.
    """
    if not (math.isfinite(speed) and speed > 0):
        raise UsageError(f"speed is {speed}; use a factor above 0")
    timed = [(_arrival_s(program), program) for program in programs]
    timed.sort(key=lambda pair: pair[0])
    start_s = timed[0][0] if timed else 0.0
    times = ((arrival_s - start_s) / speed for arrival_s, _ in timed)
    return list(arrive_at((program for _, program in timed), times))


def repeated(programs: Sequence[TraceProgram], rng: random.Random) -> Iterator[TraceProgram]:
    """Yield the programs in random order without end: each pass takes every program once, shuffled anew.

    From the second pass on, IDs end in ``.2``, ``.3`` and so on, so that they stay unique.
    """
    for number in itertools.count(1) if programs else ():
        shuffled = list(programs)
        rng.shuffle(shuffled)
        suffix = f".{number}" if number > 1 else ""
        for program in shuffled:
            yield replace(program, program_id=program.program_id[: MAX_PROGRAM_ID - len(suffix)] + suffix)


def _arrival_s(program: TraceProgram) -> float:
    if program.arrival_seconds is None:
        raise fault("arrival_seconds", None, f"give program {program.program_id} a time, or choose a Poisson rate")
    return program.arrival_seconds
