"""Which calls of a program may start, and when: after the calls they wait for, and the tools behind those."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class WaitingCall(Protocol):
    """What the graph needs to know of a call."""

    @property
    def id(self) -> str:
        """Unique within the program."""

    @property
    def parents(self) -> Sequence[str]:
        """Calls that must be done before."""

    @property
    def tool_seconds(self) -> float | None:
        """Seconds between its end and the start of its children; `None`: not known, taken as 0."""


CallT = TypeVar("CallT", bound=WaitingCall)


class PendingCalls(Generic[CallT]):
    """The calls of one run of a program that still wait for others.

    Args:
        calls: all calls of the program.

    Attributes:
        roots: those that wait for nothing.
    """

    __slots__ = ("_children", "_missing", "_ready", "roots")

    def __init__(self, calls: Iterable[CallT]) -> None:
        self.roots: list[CallT] = []
        # Children of a call; how many parents of a call are not done; and the latest of those that are.
        self._children: dict[str, list[CallT]] = {}
        self._missing: dict[str, int] = {}
        self._ready: dict[str, tuple[float, float]] = {}
        for call in calls:
            if not call.parents:
                self.roots.append(call)
                continue
            self._missing[call.id] = len(call.parents)
            for parent in call.parents:
                self._children.setdefault(parent, []).append(call)

    def released_by(self, call: CallT, path_s: float, now: float) -> Iterator[tuple[float, float, CallT]]:
        """Yield the calls that may start because `call` was the last they waited for.

        Each comes with the time at which it may start, the latest ``end + tool_seconds`` of its parents, and with the
        response time along the path of that latest parent.

        Args:
            call: has just ended; said once for each call.
            path_s: response time along the critical path up to its end.
            now: when it ended.
        """
        ready = (now + (call.tool_seconds or 0.0), path_s)
        for child in self._children.pop(call.id, ()):
            latest = max(ready, self._ready.pop(child.id, ready))
            self._missing[child.id] -= 1
            if self._missing[child.id]:
                self._ready[child.id] = latest
            else:
                del self._missing[child.id]
                yield (*latest, child)
