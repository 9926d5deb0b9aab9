"""Programs: one run of an agent for one request. Explicit ones have a scope, implicit ones stand in where none is.

The lock in here is reentrant, for the same reason as the graph's. Nothing that takes another lock is called under it.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol
from weakref import WeakValueDictionary

from autellix_sdk._graph import Branch, Graph
from autellix_sdk._ledger import Flight, Ledger
from autellix_sdk._lifecycle import ABANDONED_S, IMPLICIT_IDLE_S, RENEWAL_S, Endable, Reporter, Status
from autellix_sdk._runtime import new_program_id, new_salt, runtime
from autellix_sdk.bill import ProgramBill
from autellix_sdk.wire import JOINS_ALL, CallContext, ProgramId, encode_name, format_call


class Owner(Protocol):
    """Whoever the calls of a strand belong to.

    Attributes:
        explicit: the user opened a scope, as opposed to an implicit program.
    """

    explicit: ClassVar[bool]

    def resolve(self) -> ProgramRecord | None:
        """Return the program of a call that begins now; `None` leaves it unstamped."""

    def peek(self) -> ProgramRecord | None:
        """Return the program if there is one already."""


class Program(ABC):
    """One run of an agent. Made by `program(...)`, or by itself where no scope is open.

    Attributes:
        id: program ID, as the server sees it.
        name: name given by the user, or `None`.
    """

    __slots__ = ("__weakref__", "id", "name")

    id: ProgramId
    name: str | None

    @abstractmethod
    def bill(self, wait_s: float = 0.0) -> ProgramBill:
        """Return where this program's time went.

        While the program runs, the bill covers the plain calls that returned; streamed calls are pending, and
        ``elapsed_us`` and ``tool_us`` are measured here. Once the program has ended and the backend acknowledged it,
        the bill is the server's and covers every call.

        Args:
            wait_s: after the end, wait up to this many seconds for the acknowledgement. It blocks the thread: on an
                event loop use ``await asyncio.to_thread(p.bill, wait_s)``. No effect while the program runs.
        """


class ProgramRecord(Program):
    """A program, and what this process keeps of it.

    Attributes:
        name_field: the name as its calls carry it, encoded once.
        salt: tells its call IDs from those made under the same program ID by another process, or by an earlier object.
        graph: its call graph.
        main_branch: where its scopes branch off: each goes on from what those before it did.
        ledger: its books.
        scopes: number of its scopes that are open. Changes under the lock.
        injected: other processes may make calls of it, which this one does not see.
        reporter: looks after it; `None` while nobody does: before its first call, and after its end.
    """

    __slots__ = ("_process", "graph", "injected", "ledger", "main_branch", "name_field", "reporter", "salt", "scopes")

    explicit: ClassVar[bool] = True

    def __init__(self, name: str | None = None, program_id: ProgramId | None = None) -> None:
        self.id: ProgramId = program_id or new_program_id()
        self.name: str | None = name
        self.name_field: str = f";n={encode_name(name)}" if name else ""
        self.salt: str = new_salt()
        self.graph: Graph = Graph()
        self.main_branch: Branch = Branch()
        self.ledger: Ledger = Ledger()
        self.scopes: int = 0
        self.injected: bool = False
        self.reporter: Reporter | None = None
        self._process: int | None = os.getpid()
        _living[self.id] = self

    def __repr__(self) -> str:
        return f"Program(id={self.id!r}, name={self.name!r})"

    @classmethod
    def enter(cls, name: str | None, program_id: ProgramId | None) -> ProgramRecord:
        """Return the program of a scope that opens: a new one, or the one that has this ID."""
        with _lock:
            known = None if program_id is None else _living.get(program_id)
            program = known or cls(name, program_id)
            program.scopes += 1
        if known is not None:
            known.ledger.reopen()
        return program

    @classmethod
    def join(cls, name: str | None, program_id: ProgramId) -> ProgramRecord:
        """Return the program that has this ID, begun by another process if it is not known here."""
        with _lock:
            program = _living.get(program_id)
            if program is None:
                program = cls(name, program_id)
                program._process = None
        return program

    def call_header(self, flight: Flight) -> str:
        """Return the value of `wire.CALL_HEADER` for an attempt of a call of this program."""
        thread, call, parents = flight.node
        return format_call(self.salt, thread, call, parents, flight.retry, self.name_field)

    def context(self, flight: Flight) -> CallContext:
        """Return what that header is made from, for those who say it in other words."""
        thread, call, parents = flight.node
        waited_for = None if JOINS_ALL in parents else parents
        return CallContext(self.id, self.salt, thread, call, waited_for, flight.retry, self.name)

    def leave(self, status: Status) -> None:
        """A scope was left; the last one ends the program."""
        with _lock:
            self.scopes -= 1
            is_last = not self.scopes
        if is_last:
            self.end(status)

    def bill(self, wait_s: float = 0.0) -> ProgramBill:
        """Return where its time went, see `Program.bill`."""
        if wait_s > 0:
            self.ledger.wait(wait_s)
        return self.ledger.bill(self.id, self.name, self.graph.calls, self.graph.threads)

    def end(self, status: Status = "ok") -> None:
        """End the program: scopes and idleness do this. A later call reopens it."""
        # A server that saw no call knows no program, and only the process that began the program speaks for it.
        is_known = self.graph.calls or self.injected
        reporter = runtime.reporter if is_known and self._process == os.getpid() else None
        self.ledger.end(answered=reporter is None)
        self.reporter = None  # after the line above: whoever sees it has to see that the program has ended
        if reporter is not None:
            reporter.end(self, status)

    def open(self) -> None:
        """A call comes, the first one or one after the end: have the program looked after until it ends."""
        reporter = self.reporter = runtime.reporter
        if self.ledger.ended:
            self.ledger.reopen()
        if reporter is not None and self._process == os.getpid():
            reporter.watch(self)

    def end_if_idle(self, limit_s: float) -> float:
        """End the program if no call was in flight for `limit_s` seconds.

        Returns:
            Seconds until it is worth asking again; 0 when there is no need to, because the program has ended or its
            scope will end it.
        """
        if self.ledger.ended or self.scopes:
            return 0.0
        left_s = limit_s - self.ledger.idle_s()
        if left_s > 0:
            return left_s
        self.end()
        return 0.0

    def look_after(self, renew: Callable[[Endable], None]) -> float:
        """End the program if it has idled without a scope; ask to `renew` its lease if it has idled in one.

        Returns:
            Seconds until it is worth looking again; 0 when it has ended, or not called for a day.
        """
        if self.ledger.ended or not self.scopes:
            return self.end_if_idle(IMPLICIT_IDLE_S)
        idle_s = self.ledger.idle_s()
        if idle_s >= ABANDONED_S:
            self.reporter = None
            return 0.0
        if idle_s < RENEWAL_S:
            return RENEWAL_S - idle_s
        renew(self)
        return RENEWAL_S

    def settle(self, bill: ProgramBill | None) -> bool:
        """Take the backend's answer to an end, or learn that none will come; return whether this was the last end."""
        return self.ledger.settle(bill)

    def after_fork(self) -> None:
        """Continue in a forked process, under a salt of its own and where nobody is left to release a lock."""
        self.main_branch.after_fork(self.salt)
        self.salt = new_salt()
        self.graph.after_fork()
        self.ledger.after_fork()

    def resolve(self) -> ProgramRecord:
        """Return itself: an explicit program owns its calls."""
        return self

    def peek(self) -> ProgramRecord:
        """Return itself."""
        return self


class ImplicitOwner:
    """Stands in for a program where no scope is open: mints one at the first call, another after it went idle."""

    __slots__ = ("_program",)

    explicit: ClassVar[bool] = False

    def __init__(self) -> None:
        self._program: ProgramRecord | None = None

    def resolve(self) -> ProgramRecord | None:
        """Return the open program, or a new one; `None` where implicit programs are off."""
        program = self._program
        if program is not None and not (program.ledger.ended or program.ledger.has_idled(IMPLICIT_IDLE_S)):
            return program
        return self._renew(program)

    def peek(self) -> ProgramRecord | None:
        """Return the open program, if any call was made."""
        program = self._program
        return None if program is None or program.ledger.ended else program

    def _renew(self, old: ProgramRecord | None) -> ProgramRecord | None:
        settings = runtime.settings
        if settings is None or settings.implicit == "off":
            return None
        program = ProgramRecord()
        with _lock:
            if self._program is not old and self._program is not None:
                return self._program
            self._program = program
        if old is not None:
            old.graph.closed = True
            old.end_if_idle(0.0)
        program.open()
        return program


def after_fork() -> None:
    """Continue in a forked process, with every program of the other."""
    global _lock
    _lock = threading.RLock()
    for program in list(_living.values()):
        program.after_fork()


_lock = threading.RLock()
_living: WeakValueDictionary[ProgramId, ProgramRecord] = WeakValueDictionary()
