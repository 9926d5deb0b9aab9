"""One engine as the gateway uses it, wherever it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from autellix_server.engine.supervisor import EngineAddress, EngineStatus
from autellix_server.gateway.fleet.interruption import Interruptible, Interruption


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
        calls: calls that this gateway has in it.
        foreign_calls: calls in it that are not this gateway's, as it last said.
        draining: it gets no new calls.
        alive_s: when it last gave a sign of life, on the event loop's clock; 0: not yet.
        bounds: bounds of its levels as it last showed them; `None` until then, and if it has none.
    """

    engine: Engine
    calls: set[Interruptible] = field(default_factory=set)
    foreign_calls: int = 0
    draining: bool = False
    alive_s: float = 0.0
    bounds: Mapping[str, Any] | None = None

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
    def accepts(self) -> bool:
        """Whether it may get new calls."""
        return self.address is not None and not self.draining

    @property
    def load(self) -> int:
        """Calls in it, waiting and running."""
        return len(self.calls) + self.foreign_calls

    def lose_calls(self, reason: Interruption) -> None:
        """Interrupt every call in the engine: it will not answer them."""
        for call in tuple(self.calls):
            call.interrupt(reason)
