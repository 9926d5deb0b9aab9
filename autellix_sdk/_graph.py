"""The call graph of a program, by the frontier rules. Pure: no clock, no I/O, no knowledge of tasks or threads.

Every strand of execution (an asyncio task, an OS-thread job) stands on a `Branch`, which has a *frontier*: the calls
that its next call depends on. A fork snapshots the frontier; a call's parents are the frontier, and then the call is
the frontier; a branch that finishes hands its frontier to its parent. A call continues the lowest-numbered thread
whose tail is among its parents, else it opens a thread; its ID is ``<thread>.<place in thread>``.

The hand-over happens when a branch finishes rather than when its parent next looks, so that a spawn costs the same
however many children are alive. One case is left: a task whose last step wakes its parent, by a queue or an event, is
over before the parent runs, but is reported as finished only after. So before a parent begins a call or forks, those of
its children are asked that made calls, or have children that did; in a turn of the event loop once, since none can be
over within the turn.

The garbage collector and signal handlers run code of the user's in the middle of ours, which may start tasks and make
calls. So the lock is reentrant, and what makes a call ID unique is taken in one step that nothing can interrupt.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol
from weakref import ReferenceType

from autellix_sdk.wire import CallId

MAX_THREAD = 999_999
"""Highest thread number the wire can carry; calls that would open another one continue this one."""

MAX_FRONTIER = 4096
"""Calls a frontier keeps. Far more than a header can name, so what is cut off is written as joins-all anyway."""

Node = tuple[int, CallId, tuple[CallId, ...]]
"""One call in the graph: its thread, its ID, and the calls it waited for."""


def qualify(calls: Iterable[CallId], salt: str) -> tuple[CallId, ...]:
    """Name calls made under `salt` as other processes do; those that already carry a salt stay as they are."""
    return tuple([call if call.count(".") > 1 else CallId(f"{salt}.{call}") for call in calls])


class Task(Protocol):
    """What runs on a branch, if it can be over before it is reported as finished."""

    def done(self) -> bool:
        """Whether it is over."""


class Branch:
    """Where one strand stands in the call graph. Only its own strand begins calls on it; any thread may fork it.

    Attributes:
        graph: the graph that the frontier belongs to; `None` before the first call. The others are the graph's to
            change, under its lock.
        parent: the branch it was forked from.
        at_fork: the frontier it started with.
        frontier: the calls that its next call depends on; `None` while `joined` is ahead of it (the dirty flag).
        joined: the frontier as an ordered set, once a child was merged into it.
        moved: the frontier is no longer the one it started with.
        movers: children that moved, or have such children, and were not reported as finished; those of a finished one
            are its parent's.
        asked: the movers were asked in this turn of the event loop.
        task: weakly what runs on it, for its parent to ask; `None` where it is reported in time, and once it was.
        finished: its strand is over.
    """

    __slots__ = ("asked", "at_fork", "finished", "frontier", "graph", "joined", "moved", "movers", "parent", "task")

    def __init__(
        self, parent: Branch | None = None, graph: Graph | None = None, frontier: tuple[CallId, ...] = ()
    ) -> None:
        self.parent: Branch | None = parent
        self.graph: Graph | None = graph
        self.at_fork: tuple[CallId, ...] = frontier
        self.frontier: tuple[CallId, ...] | None = frontier
        self.joined: dict[CallId, None] | None = None
        self.movers: dict[Branch, None] | None = None
        self.task: ReferenceType[Task] | None = None
        self.asked: bool = False
        self.moved: bool = False
        self.finished: bool = False

    def fork(self) -> Branch:
        """Branch off a child that starts from this frontier."""
        if self.parent is not None and self.parent.finished:
            self._skip_finished()
        frontier, graph = self.frontier, self.graph
        if frontier is None:
            frontier = () if graph is None else graph.look(self)
        return Branch(self, graph, frontier)

    def finish(self) -> None:
        """The strand is over: hand what it did to the nearest ancestor that still runs."""
        if self.finished:
            return
        if self.moved and self.graph is not None:
            self.graph.fold(self)
        self.finished, self.task = True, None
        if self.movers:
            movers, self.movers = self.movers, None
            parent = self.living_parent()
            if parent is not None and parent.movers:
                parent.movers.pop(self, None)
            for child in (*movers,):
                child.tell_parent()
        if self.parent is not None and self.parent.finished:
            self._skip_finished()

    def ask_children(self) -> None:
        """Finish the children that are over and were not reported yet, and theirs, which are then this branch's."""
        movers = self.movers
        asked = [*(movers or ())]
        for child in asked:
            reference = child.task  # another thread may finish the child meanwhile
            if reference is not None and ((task := reference()) is None or task.done()):
                asked += child.movers or ()
                child.finish()
            if child.finished and movers:
                movers.pop(child, None)

    def ask_again(self) -> None:
        """Another turn of the event loop has begun."""
        self.asked = False

    def tell_parent(self) -> None:
        """Have the nearest ancestor that still runs ask this branch, which moved; and be asked itself by its own."""
        branch = self
        while (parent := branch.living_parent()) is not None:
            is_known = bool(parent.movers)
            if parent.movers is None:
                parent.movers = {}
            parent.movers[branch] = None
            if is_known:
                return
            branch = parent

    def move(self) -> None:
        """The frontier is about to become another one; for the graph, under its lock."""
        if not self.moved:
            self.moved = True
            self.tell_parent()

    def living_parent(self) -> Branch | None:
        """The nearest ancestor that still runs."""
        parent = self.parent
        while parent is not None and parent.finished:
            parent = parent.parent
        return parent

    def _skip_finished(self) -> None:
        """Let go of finished ancestors, or a chain of tasks, each started by the one before, would grow for ever.

        Its links may finish before they are followed or, by a turn of the event loop, after that.
        """
        self.parent = self.living_parent()

    def after_fork(self, salt: str | None) -> None:
        """Continue in a forked process.

        Args:
            salt: names the calls so far as made by the process that has it; `None` forgets them.
        """
        calls = self.frontier if self.joined is None else tuple(self.joined)
        self.at_fork = self.frontier = () if salt is None else qualify(calls or (), salt)
        self.parent, self.joined, self.moved = None, None, False
        self.movers, self.task, self.asked = None, None, False


class Graph:
    """The call graph of one program: numbers its threads and calls. Safe to use from any thread.

    Attributes:
        calls: number of calls so far.
        threads: number of threads so far.
        closed: a newer graph has taken over, and what stands there is not drawn back by what is folded here.
    """

    def __init__(self) -> None:
        self.calls: int = 0
        self.threads: int = 0
        self.closed: bool = False
        self._lock = threading.RLock()
        self._lengths: dict[int, int] = {}
        self._tails: dict[CallId, int] = {}

    def begin(self, branch: Branch) -> Node:
        """Add the next call of `branch`, which must be the caller's own."""
        with self._lock:
            if branch.graph is not self:
                self._adopt(branch)
            parents = branch.frontier
            if parents is None:
                parents = self._settle(branch)
            tails = self._tails
            thread, tail = MAX_THREAD + 1, None
            for parent in parents:
                continued = tails.get(parent, thread)
                if continued < thread:
                    thread, tail = continued, parent
            if tail is None:
                thread = self._open_thread()
            else:
                tails.pop(tail, None)  # may be gone, to a call made from inside this one: one false edge
            place = self._lengths[thread]
            self._lengths[thread] = place + 1
            call = CallId(f"{thread}.{place}")
            tails[call] = thread
            self.calls += 1
            branch.frontier, branch.joined = (call,), None
            if not branch.moved:
                branch.move()
            return thread, call, parents

    def look(self, branch: Branch) -> tuple[CallId, ...]:
        """The frontier of a branch of this graph."""
        with self._lock:
            return self._settle(branch)

    def fold(self, branch: Branch) -> None:
        """Fold a branch of this graph that finishes into its nearest living ancestor, whoever reports it first."""
        with self._lock:
            if branch.finished:
                return
            branch.finished = True
            parent = branch.living_parent()
            if parent is not None and parent.movers:
                parent.movers.pop(branch, None)
            if parent is None or (self.closed and parent.graph not in (None, self)):
                return
            if parent.graph is not self:
                self._adopt(parent)
            joined = parent.joined
            if joined is None:
                joined = dict.fromkeys(parent.frontier or ())
            for call in branch.at_fork:
                joined.pop(call, None)
            joined.update(dict.fromkeys(self._settle(branch)))
            while len(joined) > MAX_FRONTIER:
                joined.popitem()
            parent.frontier, parent.joined = None, joined
            parent.move()

    def after_fork(self) -> None:
        """Continue in a forked process: threads begun before belong to the other process and are not continued."""
        self._lock = threading.RLock()
        self._tails.clear()

    def _adopt(self, branch: Branch) -> None:
        """Take over a branch that stood in another graph, or in none: what it did there is no parent here."""
        branch.graph = self
        branch.at_fork = branch.frontier = ()
        branch.joined, branch.moved = None, False

    def _settle(self, branch: Branch) -> tuple[CallId, ...]:
        if branch.frontier is None:
            # Not by `tuple()`: the garbage collector could run, and add a call, while that is being filled.
            branch.frontier = (*(branch.joined or ()),)
        return branch.frontier

    def _open_thread(self) -> int:
        thread = self.threads
        if thread > MAX_THREAD:
            # Its tail may still be some running strand's; continuing it there as well only adds a false edge.
            self._tails.pop(CallId(f"{MAX_THREAD}.{self._lengths[MAX_THREAD] - 1}"), None)
            return MAX_THREAD
        self.threads = thread + 1
        self._lengths[thread] = 0
        return thread
