"""Compares servers: program by program at one pace, and by the rate that each stands at equal latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isinf

from autellix_server.bench.plan import ALONE, Pace
from autellix_server.bench.records import RoundRecord
from autellix_server.bench.summary import interval_over, latency_by_number
from autellix_server.simulator.results import Interval, mean
from autellix_server.simulator.throughput import crossing_rate

Rounds = Mapping[tuple[str, Pace], Sequence[RoundRecord]]
"""Repetitions by arm and pace, as `summary.by_arm_and_pace` returns them."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An arm beside the first one, at one pace, over programs that both finished.

    Attributes:
        arm, base: the arm and the first one.
        pace: how programs arrived.
        programs: programs that both finished.
        ratio: mean token latency of the arm by that of the base; below 1 the arm is better.
        interval: 95 % bootstrap interval of it; the same programs are drawn for both.
        faster: share of the programs whose latency was lower.
    """

    arm: str
    base: str
    pace: Pace
    programs: int
    ratio: float
    interval: Interval
    faster: float


class Reach(StrEnum):
    """Where the limit lies among the rates that were run."""

    CROSSED = "crossed"
    BEYOND = "beyond"
    BELOW = "below"


@dataclass(frozen=True, slots=True)
class EqualLatency:
    """The rate at which an arm's mean token latency reaches a limit.

    Attributes:
        arm: the arm.
        rate: programs a second; the highest or lowest rate that was run when the limit is `beyond` or `below` it.
        interval: 95 % bootstrap interval over programs.
        reach: whether the latency crossed the limit within the rates that were run.
        limit_s: mean token latency that is compared at.
        programs: programs that it was worked out over.
    """

    arm: str
    rate: float
    interval: Interval
    reach: Reach
    limit_s: float
    programs: int


def pairs(rounds: Rounds, seed: int) -> list[Pair]:
    """Return every arm beside the first, at every pace but the unloaded one; without those that share no program."""
    arms = list(dict.fromkeys(arm for arm, _ in rounds))
    paces = list(dict.fromkeys(pace for _, pace in rounds if pace != ALONE))
    found = []
    for pace in paces:
        base = latency_by_number(rounds.get((arms[0], pace), ()))
        for arm in arms[1:]:
            pair = _pair(arm, arms[0], pace, latency_by_number(rounds.get((arm, pace), ())), base, seed)
            if pair is not None:
                found.append(pair)
    return found


def equal_latency(rounds: Rounds, slowdown: float, seed: int) -> list[EqualLatency]:
    """Return the rate of every arm at equal latency; without arms that ran fewer than two rates.

    Args:
        rounds: with those of the first arm at the pace `ALONE`.
        slowdown: the limit, as a multiple of the first arm's unloaded mean token latency.
        seed: of the bootstrap.

    Returns:
        Nothing when no program has run alone.
    """
    arms = list(dict.fromkeys(arm for arm, _ in rounds))
    alone = latency_by_number(rounds.get((arms[0], ALONE), ())) if arms else {}
    if not alone:
        return []
    limit_s = slowdown * mean(list(alone.values()))
    found = (_equal_latency(arm, rounds, limit_s, seed) for arm in arms)
    return [one for one in found if one is not None]


def _pair(
    arm: str, base: str, pace: Pace, ours: Mapping[int, float], theirs: Mapping[int, float], seed: int
) -> Pair | None:
    shared = [number for number in ours if number in theirs]
    if not shared:
        return None

    def ratio(picks: Sequence[int]) -> float:
        return sum(ours[shared[pick]] for pick in picks) / sum(theirs[shared[pick]] for pick in picks)

    faster = sum(ours[number] < theirs[number] for number in shared) / len(shared)
    interval = interval_over(len(shared), ratio, seed)
    return Pair(arm, base, pace, len(shared), ratio(range(len(shared))), interval, faster)


def _equal_latency(arm: str, rounds: Rounds, limit_s: float, seed: int) -> EqualLatency | None:
    by_rate = {
        pace.rate: latency_by_number(found)
        for (name, pace), found in rounds.items()
        if name == arm and pace != ALONE and pace.rate is not None and not isinf(pace.rate)
    }
    shared = sorted(set.intersection(*(set(found) for found in by_rate.values()))) if by_rate else []
    if len(by_rate) < 2 or not shared:
        return None

    def points(picks: Sequence[int]) -> list[tuple[float, float]]:
        return [(rate, mean([by_rate[rate][shared[pick]] for pick in picks])) for rate in sorted(by_rate)]

    everyone = points(range(len(shared)))
    interval = interval_over(len(shared), lambda picks: crossing_rate(points(picks), limit_s), seed)
    rate = crossing_rate(everyone, limit_s)
    return EqualLatency(arm, rate, interval, _reach(everyone, limit_s), limit_s, len(shared))


def _reach(points: Sequence[tuple[float, float]], limit_s: float) -> Reach:
    if points[0][1] >= limit_s:
        return Reach.BELOW
    return Reach.CROSSED if any(latency_s >= limit_s for _, latency_s in points) else Reach.BEYOND
