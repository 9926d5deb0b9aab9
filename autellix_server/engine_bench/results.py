"""What the turns of all arms say together: medians, ratios by round, and the share of the floor. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from autellix_server.engine_bench.arms import OURS, STOCK
from autellix_server.engine_bench.bandwidth import Bandwidth
from autellix_server.engine_bench.usage import Memory

SCHEMA = "autellix.engine-bench/1"
"""Value of ``schema`` in the JSON object; another number for another shape."""

START, RSS, PSS, PEAK = "start s", "RSS GB", "PSS GB", "peak RSS GB"
COSTS = (START, RSS, PSS, PEAK)
"""What is the better the less there is of it."""

AIMS: Mapping[str, float] = {"decode 1": 2.0, "decode 16": 3.0, "prefill 512": 2.0}
"""What the engine as it comes is to reach, as a multiple of stock; shown, not enforced."""

_CLIENT_BUSY = 0.5
_OTHERS_BUSY = 0.1


@dataclass(frozen=True, slots=True)
class Turn:
    """One arm in one round.

    Attributes:
        arm: its name.
        number: of the round, from 0.
        start_s: seconds from its process's start to its first answer.
        tokens_per_s: see `measure.Speeds`.
        memory: after all measurements.
        client_busy: see `measure.Speeds`.
        others_busy: how many cores worked for anything else in that time, on average.
    """

    arm: str
    number: int
    start_s: float
    tokens_per_s: Mapping[str, Sequence[float]]
    memory: Memory
    client_busy: float
    others_busy: float

    @property
    def values(self) -> dict[str, float]:
        """What the turn found by name: the median of its repetitions."""
        memory = self.memory
        speeds = {name: median(samples) for name, samples in self.tokens_per_s.items()}
        sizes = {RSS: memory.rss_bytes, PSS: memory.pss_bytes, PEAK: memory.peak_rss_bytes}
        return {**speeds, START: self.start_s, **{name: size / 1e9 for name, size in sizes.items()}}


@dataclass(frozen=True, slots=True)
class Ratio:
    """An arm beside stock.

    Attributes:
        arm: its name.
        what: is compared.
        rounds: its value by stock's of the same round, in order.
        aim: what the median is to reach, if there is an aim.
    """

    arm: str
    what: str
    rounds: Sequence[float]
    aim: float | None

    @property
    def median(self) -> float:
        """The median over rounds."""
        return median(self.rounds)


@dataclass(frozen=True, slots=True)
class Floor:
    """How near a call that decodes alone comes to the time in which its weights can be read.

    Attributes:
        arm: its name.
        step_bytes: bytes of weights, as they are stored.
        floor_s: seconds in which all cores read them.
        step_s: seconds that a step takes, the median over rounds.
    """

    arm: str
    step_bytes: int
    floor_s: float
    step_s: float

    @property
    def share(self) -> float:
        """The floor by the step; 1 is all that memory allows."""
        return self.floor_s / self.step_s


@dataclass(slots=True)
class Results:
    """All that was found; filled while rounds run.

    Attributes:
        step_bytes: bytes of weights that a decode step reads, by arm, where that is known.
        turns: in the order in which they were run.
        bandwidths: measured at the beginning of each round, when nothing ran.
        facts: what each arm says of itself.
    """

    step_bytes: Mapping[str, int]
    turns: list[Turn] = field(default_factory=list)
    bandwidths: list[Bandwidth] = field(default_factory=list)
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def arms(self) -> list[str]:
        """Names of the arms that had a turn, stock first where it had one."""
        names = dict.fromkeys(turn.arm for turn in self.turns)
        return sorted(names, key=lambda name: name != STOCK)

    @property
    def measures(self) -> list[str]:
        """Names of what was measured."""
        return list(self.turns[0].values) if self.turns else []

    @property
    def bandwidth(self) -> Bandwidth | None:
        """The fastest of all measurements: what disturbs takes time."""
        return max(self.bandwidths, key=lambda one: one.bytes_per_s, default=None)

    def by_round(self, arm: str, what: str) -> dict[int, float]:
        """Return what an arm was measured at, by round."""
        return {turn.number: turn.values[what] for turn in self.turns if turn.arm == arm}

    @property
    def ratios(self) -> list[Ratio]:
        """Every other arm beside stock, over rounds in which both had their turn."""
        return list(self._ratios())

    @property
    def floors(self) -> list[Floor]:
        """The floor of each arm whose weights are known, if one call was measured alone."""
        return list(self._floors())

    @property
    def warnings(self) -> list[str]:
        """Why not to trust it, in sentences."""
        return list(self._warnings())

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "schema": SCHEMA,
            "arms": {arm: dict(self.facts.get(arm, {})) for arm in self.arms},
            "medians": {
                arm: {what: median(self.by_round(arm, what).values()) for what in self.measures} for arm in self.arms
            },
            "ratios": [asdict(ratio) | {"median": ratio.median} for ratio in self.ratios],
            "bandwidth": None if self.bandwidth is None else asdict(self.bandwidth),
            "floors": [asdict(floor) | {"share": floor.share} for floor in self.floors],
            "turns": [asdict(turn) for turn in self.turns],
            "warnings": self.warnings,
        }

    def _ratios(self) -> Iterator[Ratio]:
        for arm in self.arms:
            for what in self.measures if arm != STOCK else ():
                base, own = self.by_round(STOCK, what), self.by_round(arm, what)
                rounds = [own[number] / base[number] for number in own if number in base]
                if rounds:
                    yield Ratio(arm, what, rounds, AIMS.get(what) if arm == OURS else None)

    def _floors(self) -> Iterator[Floor]:
        if self.bandwidth is None or "decode 1" not in self.measures:
            return
        for arm in self.arms:
            if arm in self.step_bytes:
                floor_s = self.step_bytes[arm] / self.bandwidth.bytes_per_s
                step_s = 1 / median(self.by_round(arm, "decode 1").values())
                yield Floor(arm, self.step_bytes[arm], floor_s, step_s)

    def _warnings(self) -> Iterator[str]:
        if (others := max((turn.others_busy for turn in self.turns), default=0.0)) > _OTHERS_BUSY:
            yield (
                f"anything else took up to {others:.1f} cores while an arm was measured: these are no figures to "
                "report; repeat it when nothing else runs"
            )
        if (busy := max((turn.client_busy for turn in self.turns), default=0.0)) > _CLIENT_BUSY:
            yield f"this client used {100 * busy:.0f} % of a core: the servers would be faster without"
        if any(len(ratio.rounds) < 2 for ratio in self.ratios):
            yield "one round shows no spread: give --rounds 3 or more for figures to report"
