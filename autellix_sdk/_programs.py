"""Programs: one run of an agent for one request. Explicit ones have a scope, implicit ones stand in where none is."""

from __future__ import annotations

import os
import threading
from typing import ClassVar, Protocol

from autellix_sdk._graph import Graph
from autellix_sdk._ledger import Ledger
from autellix_sdk._lifecycle import IMPLICIT_IDLE_S, Status
from autellix_sdk._runtime import new_program_id, runtime
from autellix_sdk.bill import ProgramBill
from autellix_sdk.wire import ProgramId, encode_name


class Owner(Protocol):
    """Whoever the calls of a strand belong to.

    Attributes:
        explicit: the user opened a scope, as opposed to an implicit program.
    """

    explicit: ClassVar[bool]

    def resolve(self) -> Program | None:
        """Return the program of a call that begins now; `None` leaves it unstamped."""

    def peek(self) -> Program | None:
        """Return the program if there is one already."""


class Program:
    """One run of an agent. Made by `program(...)`, or by itself where no scope is open.

    Attributes:
        id: program ID, as the server sees it.
        name: name given by the user, or `None`.
        name_field: the name as its calls carry it, encoded once.
        graph: its call graph.
        ledger: its books.
    """

    __slots__ = ("_process", "_settled", "graph", "id", "ledger", "name", "name_field")

    explicit: ClassVar[bool] = True

    def __init__(self, name: str | None = None, program_id: ProgramId | None = None) -> None:
        self.id = program_id or new_program_id()
        self.name = name
        self.name_field = f";n={encode_name(name)}" if name else ""
        self.graph = Graph()
        self.ledger = Ledger()
        self._process = os.getpid()
        self._settled = threading.Event()

    def __repr__(self) -> str:
        return f"Program(id={self.id!r}, name={self.name!r})"

    def bill(self, wait_s: float = 0.0) -> ProgramBill:
        """Return where this program's time went.

        While the program runs, the bill covers the plain calls that returned; streamed calls are pending, and
        ``elapsed_us`` and ``tool_us`` are measured here. Once the program has ended and the backend acknowledged it,
        the bill is the server's and covers every call.

        Args:
            wait_s: after the end, wait up to this many seconds for the acknowledgement. It blocks the thread: on an
                event loop use ``await asyncio.to_thread(p.bill, wait_s)``. No effect while the program runs.
        """
        if wait_s > 0 and self.ledger.ended:
            self._settled.wait(wait_s)
        return self.ledger.bill(self.id, self.name, self.graph.calls, self.graph.threads)

    def end(self, status: Status = "ok") -> None:
        """End the program: scopes and idleness do this. A later call reopens it."""
        self.ledger.end()
        reporter = runtime.reporter
        # A server that saw no call knows no program, and a forked copy does not speak for the original.
        if reporter is not None and self.graph.calls and self._process == os.getpid():
            self._settled.clear()
            reporter.end(self, status)
        else:
            self._settled.set()

    def settle(self, bill: ProgramBill | None) -> None:
        """Take the backend's answer to the end, or learn that none will come."""
        if bill is not None:
            self.ledger.settle(bill)
        self._settled.set()

    def idle_s(self) -> float:
        """Seconds without a call in flight."""
        return self.ledger.idle_s()

    def after_fork(self) -> None:
        """Continue in a forked process, where nobody is left to release a lock."""
        self.graph.after_fork()
        self.ledger.after_fork()
        self._settled = threading.Event()

    def resolve(self) -> Program:
        """Return itself: an explicit program owns its calls."""
        return self

    def peek(self) -> Program:
        """Return itself."""
        return self


class ImplicitOwner:
    """Stands in for a program where no scope is open: mints one at the first call, another after it went idle."""

    __slots__ = ("_program",)

    explicit: ClassVar[bool] = False

    def __init__(self) -> None:
        self._program: Program | None = None

    def resolve(self) -> Program | None:
        """Return the open program, or a new one; `None` where implicit programs are off."""
        program = self._program
        if program is not None and not (program.ledger.ended or program.ledger.has_idled(IMPLICIT_IDLE_S)):
            return program
        return self._renew(program)

    def peek(self) -> Program | None:
        """Return the open program, if any call was made."""
        program = self._program
        return None if program is None or program.ledger.ended else program

    def _renew(self, old: Program | None) -> Program | None:
        settings, reporter = runtime.settings, runtime.reporter
        if settings is None or settings.implicit == "off":
            return None
        with _minting:
            if self._program is not old and self._program is not None:
                return self._program
            if old is not None:
                old.graph.closed = True
                if not old.ledger.ended:
                    old.end()
            self._program = program = Program()
        if reporter is not None:
            reporter.watch(program)
        return program


_minting = threading.Lock()
