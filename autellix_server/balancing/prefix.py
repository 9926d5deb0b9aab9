"""Prefix affinity: a call goes where the beginning of its prompt was computed before, whoever's program that was."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from autellix_server.balancing.choice import BalancedCall, Choice
from autellix_server.balancing.load import EngineLoad, least_used

BLOCK_BYTES = 1024
"""Bytes of a request that one block stands for: about as many tokens as are worth finding again."""

MAX_BLOCKS = 64
"""Blocks of one request that are looked at: beyond them what it shares decides nothing any more."""

_PROMPT_KEYS = (b'"messages"', b'"prompt"', b'"input"', b'"system"')
_HOLDERS = 4


def prompt_blocks(body: bytes, model: str = "") -> tuple[bytes, ...]:
    """Return a hash of every beginning of a request's prompt: of its first block, its first two, and so on.

    Bytes are compared, not tokens: what clients write before the prompt is left out, and the last block counts only if
    it is whole.

    Args:
        body: JSON of a call.
        model: the model asked for; equal prompts of two models share nothing.
    """
    places = [place for place in map(body.find, _PROMPT_KEYS) if place >= 0]
    start = min(places, default=0)
    blocks: list[bytes] = []
    digest = blake2b(model.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    for at in range(start, min(len(body), start + MAX_BLOCKS * BLOCK_BYTES) - BLOCK_BYTES + 1, BLOCK_BYTES):
        digest = blake2b(body[at : at + BLOCK_BYTES], digest_size=8, key=digest).digest()
        blocks.append(digest)
    return tuple(blocks)


@dataclass(slots=True)
class PrefixAffinity:
    """A call goes to the engine that served the longest beginning of its prompt, unless too many calls are there.

    A beginning that many calls share, such as tools, is soon served by several engines, because the guard sends some of
    its calls elsewhere; then the least used of these is taken.

    Attributes:
        least_share: part of the prompt's blocks that must have been served before; what is shared below that is not
            worth an imbalance.
        more_calls, times_calls: the engine may have up to `times_calls` times the calls of the least used one, and
            `more_calls` on top.
        max_blocks: blocks that are remembered; beyond them those not seen for longest are forgotten.
    """

    least_share: float = 0.5
    more_calls: int = 8
    times_calls: float = 1.5
    max_blocks: int = 1 << 17
    name: str = "prefix"
    # Which engines served a block, the latest last; blocks in the order in which they were last seen.
    _served: OrderedDict[bytes, tuple[str, ...]] = field(default_factory=OrderedDict, repr=False)

    @property
    def uses_prefix(self) -> bool:
        """It goes by nothing else."""
        return True

    @property
    def remembered(self) -> int:
        """Blocks that it remembers now."""
        return len(self._served)

    def choose(self, call: BalancedCall, engines: Sequence[EngineLoad], pin: str | None) -> Choice:
        """Return the engine with the longest beginning if its load allows, else the least used; pins play no part."""
        least = least_used(engines)
        nearest = self._nearest(call.prefix, engines)
        if nearest is None:
            choice = Choice(least)
        elif nearest.calls <= self.times_calls * least.calls + self.more_calls:
            choice = Choice(nearest)
        else:
            choice = Choice(least, moved_from=nearest.name)
        self._note(call.prefix, choice.engine.name)
        return choice

    def _nearest(self, prefix: Sequence[bytes], engines: Sequence[EngineLoad]) -> EngineLoad | None:
        """Return the least used of the engines that served the longest beginning, `None` if none served enough."""
        for length in range(len(prefix), 0, -1):
            if length < self.least_share * len(prefix):
                return None
            holders = self._served.get(prefix[length - 1], ())
            there = [engine for engine in engines if engine.name in holders]
            if there:
                return least_used(there)
        return None

    def _note(self, prefix: Sequence[bytes], engine: str) -> None:
        for block in prefix:
            others = tuple(name for name in self._served.pop(block, ()) if name != engine)
            self._served[block] = (*others[1 - _HOLDERS :], engine)
        while len(self._served) > self.max_blocks:
            self._served.popitem(last=False)
