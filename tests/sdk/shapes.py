"""Random shapes of agent programs, and the call graph that each has by the frontier rules. Pure.

A shape is a tree of steps. What decides the graph is only where work forks and where it is waited for; by what means
(tasks, groups, pools, loops) is the `kind` of a step, and must not matter.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

CALLS = ("plain", "stream", "retried")

ASYNC_FORKS = {
    "gather": True,
    "task group": True,
    "anyio": True,
    "as completed": True,
    "wait": True,
    "executor": False,
}
"""Means by which a coroutine runs branches side by side, and whether the branches are coroutines."""

SYNC_FORKS = {"pool": False, "pool map": False, "threads": False}
"""Means by which a function does."""

ASYNC_CHILDREN = {
    "task": True,
    "failing task": True,
    "wait_for": True,
    "timeout": True,
    "shield": True,
    "generator": True,
    "to_thread": False,
    "anyio thread": False,
    "loop in a thread": True,
    "shared pool": False,
}
"""Means by which a coroutine runs one piece of work and waits for it."""

SYNC_CHILDREN = {
    "thread": False,
    "timer": False,
    "generator": False,
    "loop": True,
    "loop of another thread": True,
    "shared pool": False,
}
"""Means by which a function does."""

_OF_THE_MAIN_PROCESS = {"shared pool", "loop of another thread"}


@dataclass(frozen=True)
class Call:
    """One call to the model; a ``retried`` one is refused once."""

    label: str
    kind: str


@dataclass(frozen=True)
class Fork:
    """Branches that all start before any of them calls; all are waited for."""

    kind: str
    branches: tuple[Steps, ...]


@dataclass(frozen=True)
class Child:
    """One piece of work that is waited for at once."""

    kind: str
    steps: Steps


@dataclass(frozen=True)
class Overlap:
    """Work that is started before the foreground and calls after it; both are waited for."""

    background: Steps
    foreground: Steps


@dataclass(frozen=True)
class Carried:
    """Work in another process, by `inject` and `extract`."""

    steps: Steps


Step = Call | Fork | Child | Overlap | Carried
Steps = tuple[Step, ...]


@dataclass(frozen=True)
class Shape:
    """One program.

    Attributes:
        name: its name.
        is_async: it is a coroutine.
        steps: what it does in its scope.
        straggler: what a child does that is started at the end of the scope, and goes on after it.
        fails: its scope is left by an error.
    """

    name: str
    is_async: bool
    steps: Steps
    straggler: Steps
    fails: bool


def parents_of(shape: Shape) -> dict[str, frozenset[str]]:
    """Return the labels of the calls that each call of a program waited for."""
    parents: dict[str, frozenset[str]] = {}
    frontier = _follow(shape.steps, frozenset(), parents)
    _follow(shape.straggler, frontier, parents)
    return parents


def calls_of(steps: Steps) -> Iterator[Call]:
    """Return every call in some steps."""
    for step in steps:
        match step:
            case Call():
                yield step
            case Fork():
                yield from (call for branch in step.branches for call in calls_of(branch))
            case Child() | Carried():
                yield from calls_of(step.steps)
            case Overlap():
                yield from calls_of(step.background)
                yield from calls_of(step.foreground)


def _follow(steps: Steps, frontier: frozenset[str], parents: dict[str, frozenset[str]]) -> frozenset[str]:
    for step in steps:
        match step:
            case Call():
                parents[step.label] = frontier
                frontier = frozenset({step.label})
            case Fork():
                frontier = _join(step.branches, frontier, parents)
            case Child():
                frontier = _join((step.steps,), frontier, parents)
            case Overlap():
                frontier = _join((step.background, step.foreground), frontier, parents)
            case Carried():  # what another process called is no parent of what comes after it here
                _follow(step.steps, frontier, parents)
    return frontier


def _join(branches: tuple[Steps, ...], frontier: frozenset[str], parents: dict[str, frozenset[str]]) -> frozenset[str]:
    ends = [_follow(branch, frontier, parents) for branch in branches]
    called = [end for end in ends if end != frontier]
    return frozenset[str]().union(*called) if called else frontier


def make_shapes(seed: int, count: int) -> list[Shape]:
    """Return random programs, half of them coroutines; the same ones for the same seed."""
    rng = random.Random(seed)
    return [_Maker(rng, f"{seed}-{number}").shape(is_async=bool(number % 2)) for number in range(count)]


class _Maker:
    """Makes one program."""

    def __init__(self, rng: random.Random, name: str) -> None:
        self._rng = rng
        self._name = name
        self._calls = 0

    def shape(self, *, is_async: bool) -> Shape:
        """Return a program that calls at least twice."""
        steps = (self._call(), *self._steps(is_async, depth=3), self._call())
        straggler = (self._call(), self._call()) if self._rng.random() < 0.3 else ()
        return Shape(self._name, is_async, steps, straggler, fails=self._rng.random() < 0.2)

    def _call(self) -> Call:
        self._calls += 1
        return Call(f"{self._name}/{self._calls}", self._rng.choices(CALLS, (6, 1, 1))[0])

    def _flat(self) -> Steps:
        return tuple(self._call() for _ in range(self._rng.randint(0, 2)))

    def _steps(self, is_async: bool, depth: int, away: bool = False) -> Steps:
        """Return steps of a coroutine or function; `away` is in another process."""
        return tuple(self._step(is_async, depth, away) for _ in range(self._rng.randint(0 if depth < 3 else 1, 3)))

    def _step(self, is_async: bool, depth: int, away: bool) -> Step:
        what = self._rng.random()
        if depth == 0 or what < 0.4:
            return self._call()
        if what < 0.6:
            forks = ASYNC_FORKS if is_async else SYNC_FORKS
            kind = self._rng.choice(list(forks))
            branches = (self._steps(forks[kind], depth - 1, away) for _ in range(self._rng.randint(2, 3)))
            return Fork(kind, tuple(branches))
        if what < 0.85:
            children = ASYNC_CHILDREN if is_async else SYNC_CHILDREN
            kind = self._rng.choice([kind for kind in children if not (away and kind in _OF_THE_MAIN_PROCESS)])
            # Jobs of a bounded pool that wait for jobs of the same pool may wait for ever.
            steps = self._flat() if kind == "shared pool" else self._steps(children[kind], depth - 1, away)
            return Child(kind, steps)
        if what < 0.95 or away:
            return Overlap(self._steps(is_async, depth - 1, away), self._steps(is_async, depth - 1, away))
        return Carried(self._steps(False, 1, away=True))
