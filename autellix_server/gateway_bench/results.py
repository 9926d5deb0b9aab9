"""What the turns of all arms say together: what a gateway adds to a call, and what it carries of streams. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from autellix_server.gateway_bench.arms import DIRECT

SCHEMA = "autellix.gateway-bench/1"
"""Value of ``schema`` in the JSON object; another number for another shape."""

AIM_P50_S = 0.001
AIM_P99_S = 0.005
AIM_EVENTS_PER_CORE_S = 5000.0
"""What ours is to reach: added to a call below the first two, carried of streams at least the third; shown only."""

_BUSY = 0.7
_OTHERS_BUSY = 0.1


@dataclass(frozen=True, slots=True)
class Busy:
    """How many cores worked on average, by for whom.

    Attributes:
        arm: for the gateway.
        engine: for the engine.
        client: for the load generator.
        others: for anything else.
    """

    arm: float
    engine: float
    client: float
    others: float


@dataclass(frozen=True, slots=True)
class Latency:
    """How long calls took, in seconds.

    Attributes:
        calls: that were answered completely.
        failures: the others, by reason.
        p50_s, p99_s: of the latencies; infinite where there is none.
    """

    calls: int
    failures: Mapping[str, int]
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Two slices of calls at the same relative moments, one right after the other: without and with a gateway.

    Attributes:
        arm: the gateway's name.
        number: of the round, from 0.
        kind: of calls.
        direct, through: what was found without and with it.
        busy: cores while calls went through it.
    """

    arm: str
    number: int
    kind: str
    direct: Latency
    through: Latency
    busy: Busy

    @property
    def added_p50_s(self) -> float:
        """The median with the gateway less that without."""
        return self.through.p50_s - self.direct.p50_s

    @property
    def added_p99_s(self) -> float:
        """The 99th percentile with the gateway less that without."""
        return self.through.p99_s - self.direct.p99_s


@dataclass(frozen=True, slots=True)
class Rung:
    """Streams at one rate.

    Attributes:
        arm: the gateway's name, or `DIRECT`.
        number: of the round, from 0.
        events_per_s: that the engine was asked for, of all streams together.
        streams: that were open.
        expected: events that were to come.
        delivered: that came.
        failures: streams that did not end well, by reason.
        p50_s, p99_s: of how long after they were due events came; infinite where none came.
        late_s: what `p99_s` must not exceed.
        arm_cpu_s: seconds that cores worked for the gateway.
        busy: cores, on average.
    """

    arm: str
    number: int
    events_per_s: int
    streams: int
    expected: int
    delivered: int
    failures: Mapping[str, int]
    p50_s: float
    p99_s: float
    late_s: float
    arm_cpu_s: float
    busy: Busy

    @property
    def carried(self) -> bool:
        """Nothing was lost or late."""
        return self.delivered == self.expected and not self.failures and self.p99_s <= self.late_s

    @property
    def events_per_core_s(self) -> float | None:
        """Events by seconds of a core that the gateway worked; `None`: too little to be seen."""
        return self.delivered / self.arm_cpu_s if self.arm_cpu_s else None


@dataclass(frozen=True, slots=True)
class Held:
    """The memory of open streams.

    Attributes:
        arm: the gateway's name.
        number: of the round, from 0.
        streams: that were open.
        before_bytes, open_bytes: resident memory before the first was opened, and while all were.
    """

    arm: str
    number: int
    streams: int
    before_bytes: int
    open_bytes: int

    @property
    def stream_bytes(self) -> float:
        """What a stream takes."""
        return (self.open_bytes - self.before_bytes) / self.streams


@dataclass(slots=True)
class Results:
    """All that was found; filled while rounds run.

    Attributes:
        arms: names of the gateways, in order.
        pairs, rungs, held: in the order in which they were measured.
    """

    arms: Sequence[str]
    pairs: list[Pair] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    def pairs_of(self, arm: str, kind: str) -> list[Pair]:
        """Return an arm's pairs for one kind of calls."""
        return [pair for pair in self.pairs if (pair.arm, pair.kind) == (arm, kind)]

    def rungs_of(self, arm: str) -> dict[int, list[Rung]]:
        """Return an arm's rungs by events a second, ascending."""
        found: dict[int, list[Rung]] = {}
        for rung in sorted((rung for rung in self.rungs if rung.arm == arm), key=lambda rung: rung.events_per_s):
            found.setdefault(rung.events_per_s, []).append(rung)
        return found

    def most_carried(self, arm: str) -> list[Rung]:
        """Return, for each round, the highest rung that the arm carried; rounds without one are left out."""
        best: dict[int, Rung] = {}
        for rungs in self.rungs_of(arm).values():
            best |= {rung.number: rung for rung in rungs if rung.carried}
        return list(best.values())

    @property
    def warnings(self) -> list[str]:
        """Why not to trust it, in sentences."""
        return list(self._warnings())

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; seconds and bytes throughout."""
        return {
            "schema": SCHEMA,
            "arms": {arm: self._summary(arm) for arm in (DIRECT, *self.arms)},
            "pairs": [
                asdict(pair) | {"added_p50_s": pair.added_p50_s, "added_p99_s": pair.added_p99_s} for pair in self.pairs
            ],
            "rungs": [
                asdict(rung) | {"carried": rung.carried, "events_per_core_s": rung.events_per_core_s}
                for rung in self.rungs
            ],
            "held": [asdict(one) | {"stream_bytes": one.stream_bytes} for one in self.held],
            "warnings": self.warnings,
        }

    def _summary(self, arm: str) -> dict[str, Any]:
        """Return medians over pairs and over rounds; `None` for what was not measured, or not carried."""
        kinds = dict.fromkeys(pair.kind for pair in self.pairs if pair.arm == arm)
        carried, held = self.most_carried(arm), [one.stream_bytes for one in self.held if one.arm == arm]
        per_core = [value for rung in carried if (value := rung.events_per_core_s) is not None]
        return {
            "added_p50_s": {kind: median(pair.added_p50_s for pair in self.pairs_of(arm, kind)) for kind in kinds},
            "added_p99_s": {kind: median(pair.added_p99_s for pair in self.pairs_of(arm, kind)) for kind in kinds},
            "carried_events_per_s": median(rung.events_per_s for rung in carried) if carried else None,
            "events_per_core_s": median(per_core) if per_core else None,
            "stream_bytes": median(held) if held else None,
        }

    def _warnings(self) -> Iterator[str]:
        measured: list[Pair | Rung] = [*self.pairs, *self.rungs]
        if (others := max((one.busy.others for one in measured), default=0.0)) > _OTHERS_BUSY:
            yield (
                f"anything else took up to {others:.1f} cores while an arm was measured: these are no figures to "
                "report; repeat it when nothing else runs"
            )
        for pair in self.pairs:
            for latency, way in ((pair.direct, DIRECT), (pair.through, pair.arm)):
                if latency.failures:
                    reason, count = max(latency.failures.items(), key=lambda item: item[1])
                    failed = sum(latency.failures.values())
                    yield f"{way}, {pair.kind} calls: {failed} failed, {count} of them: {reason}"
        yield from self._saturated()
        if {one.number for one in measured} == {0}:
            yield "one round shows no spread: give --rounds 3 or more for figures to report"

    def _saturated(self) -> Iterator[str]:
        for arm in (DIRECT, *self.arms):
            rungs = [rung for rung in self.rungs if rung.arm == arm]
            for who in ("engine", "client"):
                busy = max((getattr(rung.busy, who) for rung in rungs if rung.carried), default=0.0)
                if busy > _BUSY:
                    yield f"{arm}: the {who} itself used {100 * busy:.0f} % of a core: it may be what ended the ladder"
            if rungs and max(rungs, key=lambda rung: rung.events_per_s).carried:
                yield f"{arm} carried the whole ladder: give higher --events to see where it ends"
