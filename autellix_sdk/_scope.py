"""The scope of a program: a context manager, an async one, and a decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from autellix_sdk._activations import Activation, decorate
from autellix_sdk._graph import Branch
from autellix_sdk._programs import Owner, Program, ProgramRecord
from autellix_sdk.errors import UsageError, WireError
from autellix_sdk.wire import ProgramId, check_program_id, encode_name

F = TypeVar("F", bound=Callable[..., Any])


def program(name: str | None = None, *, id: str | None = None) -> Scope:  # noqa: A002 the user's word for it
    """Make the scope of one program: one run of an agent for one request.

    Use it as ``with program("research") as p:``, as ``async with``, or as a decorator.

    Args:
        name: what kind of program it is, for bills and dashboards; at most 128 bytes once percent-encoded.
        id: program ID, 1 to 64 characters of ``A-Z a-z 0-9 . _ -``; by default 128 random bits. An ID seen before
            continues that program, under the name it has; scopes that share one end it when the last of them is left.

    Raises:
        UsageError: `name` or `id` is not fit to be sent; the message shows the value.
    """
    if not isinstance(name, str | None):
        raise UsageError(f"program name {name!r} is not a string; to decorate, write @program()")
    if not isinstance(id, str | None):
        raise UsageError(f"program ID {id!r} is not a string")
    try:
        if name is not None:
            encode_name(name)
        return Scope(name, None if id is None else check_program_id(id))
    except WireError as error:
        raise UsageError(str(error)) from error


class Scope(Activation[Program]):
    """One program's scope, made by `program`. Enter it once, or use it as a decorator any number of times.

    A decorated function runs each of its calls as a program of its own. A decorated generator is in scope only while
    its own code runs, not while its consumer works on what it yielded. Leaving the scope queues the program's end.
    """

    __slots__ = ("_name", "_program", "_program_id")

    def __init__(self, name: str | None, program_id: ProgramId | None) -> None:
        super().__init__()
        self._name = name
        self._program_id = program_id
        self._program: ProgramRecord | None = None

    def __repr__(self) -> str:
        return f"the scope of program {self._name!r}"

    def __call__(self, function: F) -> F:
        """Decorate a function, coroutine function, generator function or async generator function."""
        return decorate(function, self._fresh)

    def _fresh(self) -> Scope:
        """Return a scope like this one that was not entered, for one run of a decorated function."""
        return Scope(self._name, self._program_id)

    def _arrive(self) -> tuple[Program, Owner, Branch]:
        program = self._program = ProgramRecord.enter(self._name, self._program_id)
        branch = program.main_branch
        branch.ask_children()  # tasks that outlived an earlier scope
        return program, program, branch.fork()

    def _depart(self, error: BaseException | None) -> None:
        assert self._program is not None
        self._program.leave("ok" if error is None else "error")
