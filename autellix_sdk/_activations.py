"""Activations: blocks of code, functions and generators whose calls belong elsewhere than to the strand they run on."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from autellix_sdk._graph import Branch
from autellix_sdk._programs import Owner
from autellix_sdk._strands import Frame, Strand, current_strand
from autellix_sdk.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Activation(ABC, Generic[T]):
    """A context manager, also an async one, that is entered once. What it gives to ``as`` is of type `T`.

    Between `_start` and `_end` it may also be entered step by step, on whatever strand: see `_inside`. Those are our
    own business: users see a context manager.
    """

    __slots__ = ("_entered", "_place")

    def __init__(self) -> None:
        self._place: tuple[Owner, Branch] | None = None
        self._entered: tuple[Strand, Frame] | None = None

    @abstractmethod
    def _arrive(self) -> tuple[T, Owner, Branch]:
        """Return what ``as`` gives, whom calls belong to, and where they stand; the branch is its own."""

    @abstractmethod
    def _depart(self, error: BaseException | None) -> None:
        """The activation is over; `error` is what it ended with."""

    def __enter__(self) -> T:
        """Calls made here, and in work started from here, belong there.

        Raises:
            UsageError: it was entered before.
        """
        given = self._start()
        self._entered = self._resume()
        return given

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Go back to where the code was before. Never raises, never waits."""
        if self._entered is not None:
            strand, frame = self._entered
            strand.leave(frame)
        self._end(error)

    async def __aenter__(self) -> T:
        """Do as `__enter__` does."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do as `__exit__` does."""
        self.__exit__(kind, error, trace)

    def _start(self) -> T:
        """Begin without entering; raise `UsageError` the second time."""
        if self._place is not None:
            raise UsageError(f"{self!r} is entered twice; make one per run")
        given, owner, branch = self._arrive()
        self._place = owner, branch
        return given

    def _end(self, error: BaseException | None) -> None:
        """End it, the first time; `error` is what it ended with. A closed generator ended well."""
        if self._place is None:
            return
        branch = self._place[1]
        if not branch.finished:
            branch.finish()
            self._depart(None if isinstance(error, GeneratorExit) else error)

    @contextmanager
    def _lifetime(self) -> Iterator[None]:
        """From start to end, without being there."""
        self._start()
        try:
            yield
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Be there for a while, after the start, on whatever strand this runs."""
        strand, frame = self._resume()
        try:
            yield
        finally:
            strand.leave(frame)

    def _resume(self) -> tuple[Strand, Frame]:
        strand = current_strand()
        assert self._place is not None
        return strand, strand.enter(*self._place)


def decorate(function: F, fresh: Callable[[], Activation[Any]]) -> F:
    """Run each call of a function in an activation of its own.

    Args:
        function: a function, coroutine function, generator function or async generator function. A generator is
            there only while its own code runs, not while its consumer works on what it yielded.
        fresh: makes the activation of one call.
    """
    if inspect.isasyncgenfunction(function):
        wrapper = _async_generator(function, fresh)
    elif inspect.isgeneratorfunction(function):
        wrapper = _generator(function, fresh)
    elif inspect.iscoroutinefunction(function):
        wrapper = _coroutine(function, fresh)
    else:
        wrapper = _function(function, fresh)
    return cast(F, functools.update_wrapper(wrapper, function))


def _function(function: Callable[..., Any], fresh: Callable[[], Activation[Any]]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with fresh():
            return function(*args, **kwargs)

    return wrapper


def _coroutine(function: Callable[..., Any], fresh: Callable[[], Activation[Any]]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with fresh():
            return await function(*args, **kwargs)

    return wrapper


def _generator(function: Callable[..., Any], fresh: Callable[[], Activation[Any]]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        run = fresh()
        with run._lifetime():
            generator = function(*args, **kwargs)
            step = functools.partial(generator.send, None)
            while True:
                with run._inside():
                    try:
                        item = step()
                    except StopIteration as stop:
                        return stop.value
                try:
                    step = functools.partial(generator.send, (yield item))
                except GeneratorExit:
                    with run._inside():
                        generator.close()
                    raise
                except BaseException as error:  # noqa: BLE001 whatever is thrown in goes on to the generator
                    step = functools.partial(generator.throw, error)

    return wrapper


def _async_generator(function: Callable[..., Any], fresh: Callable[[], Activation[Any]]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        run = fresh()
        with run._lifetime():
            generator = function(*args, **kwargs)
            step = functools.partial(generator.asend, None)
            while True:
                with run._inside():
                    try:
                        item = await step()
                    except StopAsyncIteration:
                        return
                try:
                    step = functools.partial(generator.asend, (yield item))
                except GeneratorExit:
                    with run._inside():
                        await generator.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001 whatever is thrown in goes on to the generator
                    step = functools.partial(generator.athrow, error)

    return wrapper
