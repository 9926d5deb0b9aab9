"""One engine as the gateway uses it, wherever it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from autellix_server.balancing.load import EngineLoad
from autellix_server.engine.supervisor import EngineAddress, EngineStatus
from autellix_server.gateway.fleet.attachment import Attachment
from autellix_server.gateway.fleet.health import Breaker
from autellix_server.gateway.fleet.interruption import Interruptible, Interruption
from autellix_server.gateway.fleet.kinds import PriorityOrder
from autellix_server.gateway.fleet.line import Line
from autellix_server.gateway.fleet.loads import engine_load
from autellix_server.scheduling.table import Program
from autellix_server.stamp import EndedPrograms

_US = 1_000_000


class Engine(Protocol):
    """An engine that somebody else keeps: `engine.supervisor.Supervisor`, or an `Attachment`."""

    @property
    def name(self) -> str:
        """Name in bills, unique in the fleet and stable over restarts."""

    @property
    def status(self) -> EngineStatus:
        """What is known about it now."""

    def condemn(self, reason: str) -> None:
        """Take it for dead, although it has not ended: it is started again, or left alone until it answers."""


@dataclass(eq=False, slots=True)
class Member:
    """One engine of a fleet. Written by the event loop alone.

    Attributes:
        engine: where and how it is.
        line: calls wait there for it; `None`: they go in at once, as with engines of ours.
        calls: calls that this gateway has given it, those in the line included.
        draining: it gets no new calls.
        alive_s: when it last gave a sign of life, on the ledger's clock; 0: not yet.
        bounds: bounds of its levels as it last showed them; `None` until then, and if it has none.
        ended: programs that ended and of which it has not been told.
        breaker: keeps calls from it while it fails them.
    """

    engine: Engine
    line: Line | None = None
    calls: set[Interruptible] = field(default_factory=set)
    draining: bool = False
    alive_s: float = 0.0
    bounds: Mapping[str, Any] | None = None
    ended: EndedPrograms = field(default_factory=EndedPrograms)
    breaker: Breaker = field(init=False)

    def __post_init__(self) -> None:
        self.breaker = Breaker(self.engine.name)

    @property
    def name(self) -> str:
        """Name of the engine."""
        return self.engine.name

    @property
    def status(self) -> EngineStatus:
        """What is known about the engine now."""
        return self.engine.status

    @property
    def address(self) -> EngineAddress | None:
        """How to reach it; `None` while it cannot be."""
        return self.engine.status.address

    @property
    def ours(self) -> bool:
        """Whether it has our plugin, and shares a secret: it orders its calls by itself and bills them."""
        return self.address is not None and self.address.secret is not None

    @property
    def priority(self) -> PriorityOrder | None:
        """How it takes the `priority` of a call, `None` if it takes none."""
        return self.engine.traits.priority if isinstance(self.engine, Attachment) else None

    @property
    def accepts(self) -> bool:
        """Whether it may get new calls, if it fails none."""
        return self.address is not None and not self.draining

    @property
    def load(self) -> EngineLoad:
        """How busy it is."""
        limits = self.status.limits
        slots = None if limits is None else limits.slots
        if slots is None and self.line is not None:
            slots = self.line.window
        shown = self.engine.shown if isinstance(self.engine, Attachment) else None
        return engine_load(self.name, len(self.calls), shown, slots)

    def program_ended(self, row: Program) -> None:
        """Take note of a program that ended, for whoever learns from it: the engine, or its line here."""
        self.ended.add(row)
        if self.line is not None:
            self.line.program_ended(row.id, row.name or "", row.service_us / _US)

    def lose_calls(self, reason: Interruption) -> None:
        """Interrupt every call in the engine: it will not answer them."""
        for call in tuple(self.calls):
            call.interrupt(reason)
