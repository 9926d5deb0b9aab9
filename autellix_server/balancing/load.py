"""How busy engines are, and which of them are overloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autellix_sdk.errors import ConfigurationError, UsageError


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """An engine that accepts calls, as it is now.

    Attributes:
        name: unique among the engines and stable over time.
        calls: calls in it, waiting and running.
        waiting: those of them that do not run; 0 also where that is not known.
        slots: calls that it runs at a time; `None`: not known.
        kv_use: share of its KV memory that running calls hold, 0 to 1; `None`: not known.
    """

    name: str
    calls: int
    waiting: int = 0
    slots: int | None = None
    kv_use: float | None = None

    @property
    def fullness(self) -> float | None:
        """Calls in it over those that it has room for: above 1 calls wait; `None`: not known.

        There is room for as many as it has slots or, if that is less, as its KV memory holds of calls like those that
        run now.
        """
        running = self.calls - self.waiting
        rooms: list[float] = [] if self.slots is None else [self.slots]
        if self.kv_use and running > 0:
            rooms.append(running / self.kv_use)
        return self.calls / min(rooms) if rooms else None


@dataclass(frozen=True, slots=True)
class OverloadLimits:
    """When an engine is overloaded, by `EngineLoad.fullness`.

    Attributes:
        over: from this on it is; 2 means that as many calls wait as run.
        calm: up to this it is no longer, and has room for programs of other engines: nobody need wait there; below
            `over`.

    Raises:
        ConfigurationError: the limits are not in order.
    """

    over: float = 2.0
    calm: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.calm < self.over:
            raise ConfigurationError(f"calm must be over 0 and below over, got calm {self.calm} and over {self.over}")


@dataclass(slots=True)
class Overload:
    """Remembers which engines are overloaded, so that one between both limits stays what it was.

    An engine whose fullness is not known never is, and takes nobody else's programs.

    Attributes:
        limits: see there.
        names: the engines that are overloaded now.
    """

    limits: OverloadLimits = field(default_factory=OverloadLimits)
    names: set[str] = field(default_factory=set)

    def look(self, engines: Sequence[EngineLoad]) -> None:
        """Take note of how busy engines are now; others, which serve another model perhaps, stay what they were."""
        for engine in engines:
            fullness = engine.fullness
            if fullness is None or fullness <= self.limits.calm:
                self.names.discard(engine.name)
            elif fullness >= self.limits.over:
                self.names.add(engine.name)

    def relief(self, engines: Sequence[EngineLoad]) -> EngineLoad | None:
        """Return the least used engine with room for programs of overloaded ones, `None` if there is none."""
        calm = [engine for engine in engines if (full := engine.fullness) is not None and full <= self.limits.calm]
        return least_used(calm) if calm else None


def least_used(engines: Sequence[EngineLoad]) -> EngineLoad:
    """Return the engine with the fewest calls in it, the first of them on a tie.

    Raises:
        UsageError: there is no engine.
    """
    return min(some(engines), key=lambda engine: engine.calls)


def named(engines: Sequence[EngineLoad], name: str | None) -> EngineLoad | None:
    """Return the engine of that name, `None` if there is none or no name."""
    return next((engine for engine in engines if engine.name == name), None)


def some(engines: Sequence[EngineLoad]) -> Sequence[EngineLoad]:
    """Return `engines`.

    Raises:
        UsageError: there is no engine.
    """
    if not engines:
        raise UsageError("no engine to choose from")
    return engines
