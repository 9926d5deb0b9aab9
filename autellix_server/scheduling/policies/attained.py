"""Least attained service first: of the call (MLFQ), of the chain (PLAS), of the critical path (ATLAS)."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.scheduling.levels import Levels
from autellix_server.scheduling.policies.base import LadderPolicy, registered

_REMEMBERED_CALLS = 1 << 17


@registered
class Mlfq(LadderPolicy):
    """Multi-level feedback queue over calls: every call starts at the top and sinks with its own service.

    Choose it where calls do not belong to programs. Do not choose it for agents: a long program re-enters at the top
    with every call and holds up programs that have had nothing yet.
    """

    name: ClassVar[str] = "mlfq"
    program_aware: ClassVar[bool] = False


@registered
class Plas(LadderPolicy):
    """Program-level attained service: a call starts where its program's summed service puts it.

    Choose it for single-threaded programs of unlike sizes. Do not choose it where programs are alike in size: it holds
    back those that have had much service just when they are about to finish.

    Source: Autellix section 4.2, PLAS: p(c_j) is the sum of t_k over completed calls k < j.
    """

    name: ClassVar[str] = "plas"

    def start_level(self, base_service_s: float) -> int:
        """Return the level whose bin holds the program's attained service."""
        return self.levels.level_of(base_service_s)


@registered
class Atlas(Plas):
    """Attained service of the longest path known: parallel calls of a program do not add up.

    Choose it for programs that fork, of unlike sizes. Do not choose it where programs are alike in size, as with PLAS,
    or where those that fork must not get more than those that do not: a wide program pays for its depth only.

    Source: Autellix section 4.2, ATLAS in its implemented form, one scalar per program.
    """

    name: ClassVar[str] = "atlas"

    def completed(self, context: CallContext, service_s: float, base_service_s: float, call_service_s: float) -> float:
        """Raise the program's service to the end of the path through this call."""
        return max(service_s, base_service_s + call_service_s)


@registered
class AtlasDag(Atlas):
    """ATLAS by true parents: a call inherits the longest path behind it, not the longest of its program.

    Choose it instead of ATLAS where clients use the SDK, which sends the call graph: a short branch is not charged for
    a long one beside it. Do not choose it for clients that are not trusted: who claims that every call is a root runs
    at the top for ever.

    A call that joins all earlier ones, or a parent that is not remembered, counts as the program's scalar. The last
    2^17 completed calls are remembered, about 40 MB when full; the oldest are forgotten first.

    Source: Autellix section 4.2, ATLAS: p(c_j) = 0 for a root call, else max over parents k of p(c_k) + t_k.
    """

    name: ClassVar[str] = "atlas-dag"

    def __init__(self, levels: Levels, remembered_calls: int = _REMEMBERED_CALLS) -> None:
        super().__init__(levels)
        self._remembered_calls = remembered_calls
        self._path_s: OrderedDict[tuple[ProgramId, str], float] = OrderedDict()

    def inherited_s(self, context: CallContext, service_s: float) -> float:
        """Return the longest path that ends in a parent of this call."""
        if context.parents is None:
            return service_s
        return max((self._behind_s(context, parent, service_s) for parent in context.parents), default=0.0)

    def completed(self, context: CallContext, service_s: float, base_service_s: float, call_service_s: float) -> float:
        """Remember the path through this call, and raise the program's scalar to it."""
        path_s = base_service_s + call_service_s
        self._path_s[context.program, f"{context.salt}.{context.call}"] = path_s
        if len(self._path_s) > self._remembered_calls:
            self._path_s.popitem(last=False)
        return max(service_s, path_s)

    def _behind_s(self, context: CallContext, parent: CallId, service_s: float) -> float:
        """Return the path that ends in `parent`: a call of the same process or, written ``salt.call``, of another."""
        own = self._path_s.get((context.program, f"{context.salt}.{parent}"))
        return own if own is not None else self._path_s.get((context.program, parent), service_s)
