"""What is run, and in which order. Pure: nothing here knows a clock or a server."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isinf

from autellix_sdk.errors import UsageError
from autellix_server.traces.arrivals import arrive_at, in_order_of_arrival, poisson_times
from autellix_server.traces.model import TraceProgram
from autellix_server.traces.scaling import Scale, scale_program


@dataclass(frozen=True, slots=True)
class Arm:
    """A server that is compared.

    Attributes:
        name: what reports call it.
        url: where it is; `None` for one that is started for the occasion.
        serve_arguments: arguments of `autellix serve` for that one.
    """

    name: str
    url: str | None = None
    serve_arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pace:
    """How programs arrive.

    Attributes:
        rate: programs a second, Poisson; infinite for all at once; `None` for the times of the trace.
        alone: instead of that, each program arrives when the one before has ended: the unloaded server.
    """

    rate: float | None
    alone: bool = False

    def __str__(self) -> str:
        """Say it in a few words."""
        if self.alone:
            return "one at a time"
        return "at the times of the trace" if self.rate is None else f"at {self.rate:g} programs/s"


ALONE = Pace(0.0, alone=True)
"""The unloaded server."""


@dataclass(frozen=True, slots=True)
class Round:
    """One run of all programs on one server.

    Attributes:
        arm: the server.
        pace: how programs arrive.
        repeat: which repetition this is, from 0.
    """

    arm: Arm
    pace: Pace
    repeat: int


def interleave(arms: Sequence[Arm], paces: Sequence[Pace], repeats: int, alone: bool = False) -> list[Round]:
    """Return the rounds in the order in which they run.

    Every repetition takes the paces in order, and every pace all arms, forwards and backwards in turn (A B, B A,
    A B, ...): what drifts with time falls on all arms alike, and a server that was started is used twice in a row.

    Args:
        arms: the servers.
        paces: how programs arrive.
        repeats: repetitions, 1 or more.
        alone: begin with one round of each arm at the pace `ALONE`.
    """
    blocks = [(0, ALONE)] if alone else []
    blocks += itertools.product(range(repeats), paces)
    return [
        Round(arm, pace, repeat)
        for number, (repeat, pace) in enumerate(blocks)
        for arm in (arms if number % 2 == 0 else reversed(arms))
    ]


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a round's arrivals, from its beginning or end.

    Attributes:
        share: as a share of the time between first and last arrival, 0 to 1.
        seconds: or in seconds; the larger of both counts.
    """

    share: float = 0.0
    seconds: float = 0.0

    def of(self, span_s: float) -> float:
        """Return the part of a span, in seconds."""
        return max(self.seconds, self.share * span_s)

    def __str__(self) -> str:
        """Say it in a few words."""
        return f"{self.seconds:g} s" if self.seconds else f"{100 * self.share:g} %"


NO_CUT = Cut()
"""Everything counts."""


def counted_numbers(arrivals_s: Sequence[float], warmup: Cut, cooldown: Cut) -> frozenset[int]:
    """Return the numbers of the programs that count: those that arrive neither in the first part nor in the last.

    Args:
        arrivals_s: arrival times, ascending.
        warmup, cooldown: what is cut.

    Raises:
        UsageError: no program is left.
    """
    first_s, last_s = arrivals_s[0], arrivals_s[-1]
    span_s = last_s - first_s
    from_s, until_s = first_s + warmup.of(span_s), last_s - cooldown.of(span_s)
    kept = frozenset(number for number, at_s in enumerate(arrivals_s) if from_s <= at_s <= until_s)
    if not kept:
        raise UsageError(
            f"--warmup {warmup} and --cooldown {cooldown} leave none of {len(arrivals_s)} programs that arrive "
            f"within {span_s:.1f} s; cut less, or give more --programs"
        )
    return kept


def fit(programs: Iterable[TraceProgram], scale: Scale) -> list[TraceProgram]:
    """Return the programs made small enough, those left out of which not one call fits.

    Args:
        programs: as they are in the trace.
        scale: see `scale_program`.

    Raises:
        UsageError: no program is left.
    """
    kept = [scaled for program in programs if (scaled := scale_program(program, scale))]
    if not kept:
        raise UsageError(
            f"no call fits into --scale-context {scale.context_tokens}; raise it, or lower --scale-prompts"
        )
    return kept


def arrivals_at(programs: Sequence[TraceProgram], pace: Pace, seed: int) -> list[TraceProgram]:
    """Return the programs in order of arrival, each with its time in seconds from 0.

    The same programs in the same order at every rate; the times are those of one Poisson process, stretched.

    Args:
        programs: what arrives.
        pace: any but `ALONE`, where no program has a time.
        seed: of the process.

    Raises:
        TraceError: the times of the trace are asked for, and a program has none.
    """
    if pace.rate is None:
        return in_order_of_arrival(programs)
    if isinf(pace.rate):
        return list(arrive_at(programs, itertools.repeat(0.0)))
    return list(arrive_at(programs, poisson_times(pace.rate, random.Random(seed))))
