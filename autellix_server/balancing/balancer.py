"""Algorithm 2 and its rivals: from a call, the engines and the program's pin to an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

from autellix_sdk.errors import ConfigurationError
from autellix_sdk.wire import ProgramId
from autellix_server.balancing.choice import BalancedCall, Choice
from autellix_server.balancing.load import EngineLoad, Overload, least_used, named, some
from autellix_server.balancing.prefix import PrefixAffinity

SHORT_CALL_TOKENS = 2048
"""Prompts up to this long go to the least used engine, wherever their program's history lies."""


class Balancer(Protocol):
    """Chooses the engine of a call. Deterministic; one thread at a time. It may remember what it chose.

    The caller keeps each program's pin: when `Choice.pins` is true, the engine chosen becomes the program's.
    """

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def uses_prefix(self) -> bool:
        """Whether it looks at `BalancedCall.prefix`, which takes time to make."""

    def choose(self, call: BalancedCall, engines: Sequence[EngineLoad], pin: str | None) -> Choice:
        """Return one of `engines`.

        Args:
            call: the call that arrived.
            engines: those that accept calls, in a stable order.
            pin: name of the program's engine, or `None`; it need not be among `engines`.

        Raises:
            UsageError: there is no engine.
        """


@dataclass(slots=True)
class Autellix:
    """Short calls to the least used engine, long ones to their program's.

    Attributes:
        short_tokens: longest prompt, in tokens, that counts as short; 0 keeps every call with its program.
        overload: which engines are overloaded.

    Source: Autellix section 4.4, Algorithm 2 (threshold 2048). Differs: a program whose engine is gone, or overloaded
    while another one has room, gets another one.
    """

    short_tokens: int = SHORT_CALL_TOKENS
    overload: Overload = field(default_factory=Overload)
    name: str = "autellix"
    uses_prefix: bool = False

    def choose(self, call: BalancedCall, engines: Sequence[EngineLoad], pin: str | None) -> Choice:
        """Return the program's engine for a long call if it has one that will do, else the least used."""
        self.overload.look(engines)
        if call.prompt_tokens <= self.short_tokens:
            return Choice(least_used(engines))
        home = named(engines, pin)
        if home is None:
            return Choice(least_used(engines), moved_from=pin, pins=True)
        if home.name in self.overload.names and (relief := self.overload.relief(engines)) is not None:
            return Choice(relief, moved_from=pin, pins=True)
        return Choice(home, pins=True)


@dataclass(slots=True)
class Affinity:
    """Algorithm 2, but a short call too stays with its program while that engine has little more to do than another.

    What the least used engine saves a short call in waiting, it costs in computing its history, and each engine that a
    program visits keeps a copy of it. So a program gets its engine with its first call, and short calls leave it only
    for one with clearly fewer calls, without moving the program.

    Attributes:
        algorithm2: where long calls go, and short ones that leave.
        times_calls, more_calls: a program's engine may have up to `times_calls` times the calls of the least used one,
            and `more_calls` on top.
    """

    algorithm2: Autellix = field(default_factory=Autellix)
    times_calls: float = 1.25
    more_calls: int = 2
    name: str = "affinity"
    uses_prefix: bool = False

    def choose(self, call: BalancedCall, engines: Sequence[EngineLoad], pin: str | None) -> Choice:
        """Return the program's engine if it has one that will do, else the least used."""
        choice = self.algorithm2.choose(call, engines, pin)
        if call.prompt_tokens > self.algorithm2.short_tokens:
            return choice
        home, least = named(engines, pin), choice.engine
        if home is None:
            return Choice(least, moved_from=pin, pins=True)
        return Choice(home if home.calls <= self.times_calls * least.calls + self.more_calls else least)


@dataclass(frozen=True, slots=True)
class LeastUsed:
    """Every call to the engine with the fewest calls in it; programs have no engine."""

    name: str = "least-used"
    uses_prefix: bool = False

    def choose(self, call: BalancedCall, engines: Sequence[EngineLoad], pin: str | None) -> Choice:
        """Return the engine with the fewest calls, the first of them on a tie."""
        return Choice(least_used(engines))


@dataclass(slots=True)
class RoundRobin:
    """Engines in turn, whatever their load; programs have no engine.

    Attributes:
        turn: calls placed so far.
    """

    turn: int = 0
    name: str = "round-robin"
    uses_prefix: bool = False

    def choose(self, call: BalancedCall, engines: Sequence[EngineLoad], pin: str | None) -> Choice:
        """Return the next engine."""
        engine = some(engines)[self.turn % len(engines)]
        self.turn += 1
        return Choice(engine)


@dataclass(frozen=True, slots=True)
class ConsistentHash:
    """Every call of a program to one engine, by rendezvous hashing of program and engine name.

    When an engine leaves, only its own programs move; when one joins, programs move only to it. The hash remembers
    where a program is: it pins only so that a move is seen.
    """

    name: str = "hash"
    uses_prefix: bool = False

    def choose(self, call: BalancedCall, engines: Sequence[EngineLoad], pin: str | None) -> Choice:
        """Return the engine whose hash with the program is the highest."""
        engine = max(some(engines), key=lambda engine: _weight(call.program, engine.name))
        return Choice(engine, moved_from=None if pin == engine.name else pin, pins=True)


BALANCERS: dict[str, Callable[[], Balancer]] = {
    "affinity": Affinity,
    "autellix": Autellix,
    "prefix": PrefixAffinity,
    "least-used": LeastUsed,
    "round-robin": RoundRobin,
    "hash": ConsistentHash,
}
"""Every balancer by its name on the command line."""

DEFAULT_BALANCER = "affinity"
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


def _weight(program: ProgramId, engine: str) -> bytes:
    # Not `hash`: that of a string differs from one process to the next.
    return blake2b(f"{engine}\0{program}".encode(), digest_size=8).digest()
