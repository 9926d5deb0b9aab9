"""What a balancer is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from autellix_sdk.wire import ProgramId
from autellix_server.balancing.load import EngineLoad


@dataclass(frozen=True, slots=True)
class BalancedCall:
    """What a balancer knows of a call.

    Attributes:
        program: program the call belongs to.
        prompt_tokens: length of its whole prompt, 0 or more; an estimate will do.
        prefix: hashes of the beginnings of its prompt, ever longer ones; only for balancers that use them.
    """

    program: ProgramId
    prompt_tokens: int
    prefix: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a call goes.

    Attributes:
        engine: its engine.
        moved_from: name of the engine that has what the call shares with earlier ones, where it does not go there
            because that engine is gone or has too much to do; `None`: it goes there, or nobody has anything. After a
            move prompt tokens are computed again, see `recomputed_tokens`.
        pins: the engine is its program's from now on.
    """

    engine: EngineLoad
    moved_from: str | None = None
    pins: bool = False


def recomputed_tokens(known_tokens: int, cached_tokens: int) -> int:
    """Return how many prompt tokens a call computed again because it moved.

    Args:
        known_tokens: beginning of its prompt that the engine it moved from had.
        cached_tokens: what it found on the engine that it moved to.
    """
    return max(0, known_tokens - cached_tokens)
