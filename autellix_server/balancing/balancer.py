"""Algorithm 2 and its rivals: functions from a call, the engines and the program's pin to an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from autellix_sdk.errors import ConfigurationError, UsageError
from autellix_sdk.wire import ProgramId

SHORT_CALL_TOKENS = 2048
"""Prompts up to this long go to the least used engine, wherever their program's history lies."""


@dataclass(frozen=True, slots=True)
class BalancedCall:
    """What a balancer knows of a call.

    Attributes:
        program: program the call belongs to.
        prompt_tokens: length of its whole prompt, 0 or more; an estimate will do.
    """

    program: ProgramId
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """An engine that accepts calls, as it is now.

    Attributes:
        name: unique among the engines and stable over time.
        calls: calls in it, waiting and running.
    """

    name: str
    calls: int


class Balancer(Protocol):
    """Chooses the engine of a call. Deterministic; one thread at a time.

    The caller keeps each program's pin: when `pins(call)` is true, the engine chosen becomes the program's.
    """

    @property
    def name(self) -> str:
        """Name on the command line."""

    def choose(self, call: BalancedCall, engines: Sequence[EngineLoad], pin: str | None) -> EngineLoad:
        """Return one of `engines`.

        Args:
            call: the call that arrived.
            engines: those that accept calls, in a stable order.
            pin: name of the program's engine, or `None`. A pin to an engine that is gone counts as none.

        Raises:
            UsageError: there is no engine.
        """

    def pins(self, call: BalancedCall) -> bool:
        """Return whether the engine chosen for `call` becomes its program's."""


@dataclass(frozen=True, slots=True)
class Autellix:
    """Short calls to the least used engine, long ones to their program's.

    Attributes:
        short_tokens: longest prompt, in tokens, that counts as short; 0 keeps every call with its program.

    Source: Autellix section 4.4, Algorithm 2 (threshold 2048). Differs: a pinned engine that is gone is replaced.
    """

    short_tokens: int = SHORT_CALL_TOKENS
    name: str = "autellix"

    def choose(self, call: BalancedCall, engines: Sequence[EngineLoad], pin: str | None) -> EngineLoad:
        """Return the program's engine for a long call if it has one, else the least used."""
        if pin is not None and self.pins(call):
            for engine in engines:
                if engine.name == pin:
                    return engine
        return least_used(engines)

    def pins(self, call: BalancedCall) -> bool:
        """Only long calls pin."""
        return call.prompt_tokens > self.short_tokens


@dataclass(frozen=True, slots=True)
class LeastUsed:
    """Every call to the engine with the fewest calls in it."""

    name: str = "least-used"

    def choose(self, call: BalancedCall, engines: Sequence[EngineLoad], pin: str | None) -> EngineLoad:
        """Return the engine with the fewest calls, the first of them on a tie."""
        return least_used(engines)

    def pins(self, call: BalancedCall) -> bool:
        """Programs have no engine."""
        return False


@dataclass(slots=True)
class RoundRobin:
    """Engines in turn, whatever their load.

    Attributes:
        turn: calls placed so far.
    """

    turn: int = 0
    name: str = "round-robin"

    def choose(self, call: BalancedCall, engines: Sequence[EngineLoad], pin: str | None) -> EngineLoad:
        """Return the next engine."""
        engine = _some(engines)[self.turn % len(engines)]
        self.turn += 1
        return engine

    def pins(self, call: BalancedCall) -> bool:
        """Programs have no engine."""
        return False


@dataclass(frozen=True, slots=True)
class ConsistentHash:
    """Every call of a program to one engine, by rendezvous hashing of program and engine name.

    When an engine leaves, only its own programs move; when one joins, programs move only to it.
    """

    name: str = "hash"

    def choose(self, call: BalancedCall, engines: Sequence[EngineLoad], pin: str | None) -> EngineLoad:
        """Return the engine whose hash with the program is the highest."""
        return max(_some(engines), key=lambda engine: _weight(call.program, engine.name))

    def pins(self, call: BalancedCall) -> bool:
        """The hash remembers; nothing else has to."""
        return False


BALANCERS: dict[str, Callable[[], Balancer]] = {
    "autellix": Autellix,
    "least-used": LeastUsed,
    "round-robin": RoundRobin,
    "hash": ConsistentHash,
}
"""Every balancer by its name on the command line."""

DEFAULT_BALANCER = "autellix"
"""What balances where nobody names a balancer."""


def make_balancer(name: str) -> Balancer:
    """Build the balancer called `name`.

    Raises:
        ConfigurationError: there is no such balancer; the message lists those there are.
    """
    try:
        return BALANCERS[name]()
    except KeyError:
        raise ConfigurationError(f"unknown balancer {name!r}; choose one of: {', '.join(BALANCERS)}") from None


def least_used(engines: Sequence[EngineLoad]) -> EngineLoad:
    """Return the engine with the fewest calls in it, the first of them on a tie.

    Raises:
        UsageError: there is no engine.
    """
    return min(_some(engines), key=lambda engine: engine.calls)


def _some(engines: Sequence[EngineLoad]) -> Sequence[EngineLoad]:
    if not engines:
        raise UsageError("no engine to choose from")
    return engines


def _weight(program: ProgramId, engine: str) -> bytes:
    # Not `hash`: that of a string differs from one process to the next.
    return blake2b(f"{engine}\0{program}".encode(), digest_size=8).digest()
