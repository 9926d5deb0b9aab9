"""What is learned from programs that ended, kept so that an engine which starts anew knows it again.

Policies learn in the engine, from ``x-autellix-ended``. What they make of it is theirs; kept here is what they were
told: how much service the last programs of each class attained. A new engine is told again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import chain, islice, zip_longest
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.table import Program
from autellix_server.stamp import MAX_ENDED, EndedProgram

MAX_CLASSES = 256
"""Classes that are remembered, the last used; as many as the policy `gittins` tells apart."""

MAX_PER_CLASS = 512
"""Programs that are remembered of a class: about as many as count in `Hazards`."""


class _Services(BaseModel):
    """What is stored of one class, the program that ended last at the end."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    services_us: list[Annotated[int, Field(ge=0)]]


class EndedHistory:
    """The service of the programs that ended last, by class. Bounded; one event loop."""

    def __init__(self) -> None:
        self._classes: OrderedDict[str, deque[int]] = OrderedDict()
        # In the order in which they are to be stored: the last used at the end.
        self._changed: dict[str, None] = {}

    def add(self, row: Program) -> None:
        """Note a program that ended. Of one that was served nothing there is nothing to learn."""
        if not row.service_us:
            return
        name = row.name or ""
        self._services(name).append(row.service_us)
        self._changed.pop(name, None)
        self._changed[name] = None
        if len(self._classes) > MAX_CLASSES:
            self._changed[self._classes.popitem(last=False)[0]] = None

    def programs(self, new_id: Callable[[], str]) -> tuple[EndedProgram, ...]:
        """Return what to tell an engine that knows nothing: as many programs as can be queued for it.

        The last of every class come first, then the ones before them: the engine is told a few with each call, and
        soon knows something of every class. They have IDs of their own, since one of them may be live again.

        Args:
            new_id: returns a fresh random program ID.
        """
        rounds = zip_longest(
            *([(name, us) for us in reversed(ended)] for name, ended in reversed(self._classes.items()))
        )
        told = islice(filter(None, chain.from_iterable(rounds)), MAX_ENDED)
        return tuple(EndedProgram(ProgramId(new_id()), name, service_us) for name, service_us in told)

    def changes(self) -> Iterator[tuple[str, str | None]]:
        """Return the classes that changed since this was last asked, as JSON for `restore`; `None`: forgotten.

        They are to be restored in this order.
        """
        changed, self._changed = self._changed, {}
        for name in changed:
            ended = self._classes.get(name)
            yield name, None if ended is None else _Services(version=1, services_us=list(ended)).model_dump_json()

    def restore(self, name: str, value: str) -> None:
        """Take up one class.

        Args:
            name: the class.
            value: as returned by `changes`.

        Raises:
            ValueError: it is damaged, or of another version.
        """
        self._services(name).extend(_Services.model_validate_json(value).services_us)

    def _services(self, name: str) -> deque[int]:
        self._classes.setdefault(name, deque(maxlen=MAX_PER_CLASS))
        self._classes.move_to_end(name)
        return self._classes[name]
