"""The scope of a program: a context manager, an async one, and a decorator."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar, cast

from autellix_sdk._graph import Branch
from autellix_sdk._programs import Program
from autellix_sdk._strands import Frame, Strand, current_strand
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


class Scope:
    """One program's scope, made by `program`. Enter it once, or use it as a decorator any number of times.

    A decorated function runs each of its calls as a program of its own. A decorated generator is in scope only while
    its own code runs, not while its consumer works on what it yielded.
    """

    __slots__ = ("_entered", "_name", "_program_id", "_run")

    def __init__(self, name: str | None, program_id: ProgramId | None) -> None:
        self._name = name
        self._program_id = program_id
        self._run: tuple[Program, Branch] | None = None
        self._entered: tuple[Strand, Frame] | None = None

    def __enter__(self) -> Program:
        """Start the program: calls made here, and in work started from here, belong to it.

        Raises:
            UsageError: the scope was entered before.
        """
        program = self.start()
        self._entered = self._resume()
        return program

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Go back to the outer program and queue the end of this one. Never raises, never waits."""
        if self._entered is not None:
            strand, frame = self._entered
            strand.leave(frame)
        self.end(error)

    async def __aenter__(self) -> Program:
        """Start the program, as `__enter__` does."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the program, as `__exit__` does."""
        self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """Decorate a function, coroutine function, generator function or async generator function."""
        if inspect.isasyncgenfunction(function):
            wrapper = _async_generator(self, function)
        elif inspect.isgeneratorfunction(function):
            wrapper = _generator(self, function)
        elif inspect.iscoroutinefunction(function):
            wrapper = _coroutine(self, function)
        else:
            wrapper = _function(self, function)
        return cast(F, functools.update_wrapper(wrapper, function))

    def fresh(self) -> Scope:
        """Return a scope like this one that was not entered, for one run of a decorated function."""
        return Scope(self._name, self._program_id)

    def start(self) -> Program:
        """Start the program's clock without entering the scope; raise `UsageError` the second time."""
        if self._run is not None:
            raise UsageError(f"the scope of program {self._name!r} is entered twice; make one per run")
        program = Program.enter(self._name, self._program_id)
        self._run = program, program.trunk.fork()
        return program

    def end(self, error: BaseException | None) -> None:
        """Leave the program; `error` is what the scope ended with. A closed generator ended well."""
        if self._run is None:
            return
        program, branch = self._run
        if not branch.finished:
            branch.finish()
            program.leave("ok" if error is None or isinstance(error, GeneratorExit) else "error")

    @contextmanager
    def lifetime(self) -> Iterator[None]:
        """From the program's start to its end, without being in scope."""
        self.start()
        try:
            yield
        except BaseException as error:
            self.end(error)
            raise
        self.end(None)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """In scope of a program that was started, on whatever strand this runs."""
        strand, frame = self._resume()
        try:
            yield
        finally:
            strand.leave(frame)

    def _resume(self) -> tuple[Strand, Frame]:
        strand = current_strand()
        assert self._run is not None
        return strand, strand.enter(*self._run)


def _function(scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with scope.fresh():
            return function(*args, **kwargs)

    return wrapper


def _coroutine(scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with scope.fresh():
            return await function(*args, **kwargs)

    return wrapper


def _generator(scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        run = scope.fresh()
        with run.lifetime():
            generator = function(*args, **kwargs)
            step = functools.partial(generator.send, None)
            while True:
                with run.inside():
                    try:
                        item = step()
                    except StopIteration as stop:
                        return stop.value
                try:
                    step = functools.partial(generator.send, (yield item))
                except GeneratorExit:
                    with run.inside():
                        generator.close()
                    raise
                except BaseException as error:  # noqa: BLE001 whatever is thrown in goes on to the generator
                    step = functools.partial(generator.throw, error)

    return wrapper


def _async_generator(scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        run = scope.fresh()
        with run.lifetime():
            generator = function(*args, **kwargs)
            step = functools.partial(generator.asend, None)
            while True:
                with run.inside():
                    try:
                        item = await step()
                    except StopAsyncIteration:
                        return
                try:
                    step = functools.partial(generator.asend, (yield item))
                except GeneratorExit:
                    with run.inside():
                        await generator.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001 whatever is thrown in goes on to the generator
                    step = functools.partial(generator.athrow, error)

    return wrapper
