"""Handles: where some code stands, kept, so that work which identity cannot follow by itself belongs there later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from autellix_sdk._activations import Activation, decorate
from autellix_sdk._graph import Branch
from autellix_sdk._programs import Owner, ProgramRecord
from autellix_sdk._strands import current_strand

F = TypeVar("F", bound=Callable[..., Any])


class Handle:
    """Where some code stood when it called `capture`: its program, and the calls that it had behind it.

    Any thread may attach it, any number of times, also side by side, and after the program's scope was left.
    """

    __slots__ = ("_branch", "_owner", "_salt")

    def __init__(self, owner: Owner, branch: Branch) -> None:
        """Lead to a place.

        Args:
            owner: whom calls belong to.
            branch: a finished branch, forked where the code stood: what is forked from it starts with those calls, and
                is folded, when it finishes, into what is still running of that code.
        """
        self._owner = owner
        self._branch = branch
        self._salt = owner.salt if isinstance(owner, ProgramRecord) else ""

    def __repr__(self) -> str:
        return f"Handle({self._owner!r})"

    def attach(self) -> Attachment:
        """Make a context manager, also an async one: calls made inside belong where the handle leads.

        They branch off there like a task that was started at the time of the capture: the calls before it are their
        parents. On leaving, the code goes back to where it was.
        """
        return Attachment(self)

    def _place(self) -> tuple[Owner, Branch]:
        """Where it leads; the branch is one to fork, and names calls as this process has to."""
        owner = self._owner
        if isinstance(owner, ProgramRecord) and owner.salt != self._salt:  # the process was forked since
            self._branch.after_fork(self._salt)
            self._salt = owner.salt
        return owner, self._branch


class Attachment(Activation[None]):
    """Where a handle leads, for the duration of a block; made by `Handle.attach`. Enter it once."""

    __slots__ = ("_handle",)

    def __init__(self, handle: Handle) -> None:
        super().__init__()
        self._handle = handle

    def __repr__(self) -> str:
        return "an attachment"

    def _arrive(self) -> tuple[None, Owner, Branch]:
        owner, branch = self._handle._place()
        return None, owner, branch.fork()

    def _depart(self, error: BaseException | None) -> None:
        """Nothing ends with it: the program's own scope does that."""


def capture() -> Handle:
    """Return a handle of where the running code stands: its program, and the calls that it has behind it.

    For what does not follow by itself: callbacks of ``call_soon`` and ``call_later``, tasks built by hand, and queues
    whose workers were there before. Outside any scope it is the implicit program of the task or thread.
    """
    strand = current_strand()
    branch = strand.fork().branch
    branch.finish()
    # An implicit program is held on to: its owner would mint another one after a minute without a call.
    return Handle(strand.owner.resolve() or strand.owner, branch)


def bind(function: F) -> F:
    """Return a function whose calls run where the code that binds it stands now, whoever runs them.

    Args:
        function: a function, coroutine function, generator function or async generator function. A generator is
            there only while its own code runs.
    """
    return decorate(function, capture().attach)
