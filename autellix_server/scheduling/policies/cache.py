"""Order by what the prefix cache holds."""

from __future__ import annotations

from typing import ClassVar

from autellix_server.scheduling.call import Call, Place
from autellix_server.scheduling.policies.base import BasePolicy, registered


@registered
class Lpm(BasePolicy):
    """Longest cached prefix first. The driver supplies `Call.cached_tokens` and reorders a call when it changes.

    Choose it for offline batches with long shared prefixes and a cache too small for all of them. Do not choose it
    where anyone waits for an answer: programs with nothing in the cache, which are the new ones, wait longest.

    Source: SGLang's schedule policy of that name.
    """

    name: ClassVar[str] = "lpm"
    program_aware: ClassVar[bool] = False
    margin: ClassVar[int] = 1
    """There is one level: nobody leaves for a longer prefix, as in SGLang."""

    def start(self, call: Call) -> Place:
        """Rank by cached tokens, most first."""
        return Place(0, rank=-call.cached_tokens)
