"""The frontier rules, on the pure graph."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from autellix_sdk import _graph
from autellix_sdk._graph import Branch, Graph
from autellix_sdk.wire import CallContext, CallId, ProgramId, decode_call, encode_call
from tests.sdk.conftest import finishes


def test_sequential_calls_form_one_thread() -> None:
    """Each call has the one before as its parent."""
    graph, branch = Graph(), Branch()
    assert [graph.begin(branch) for _ in range(3)] == [
        (0, "0.0", ()),
        (0, "0.1", ("0.0",)),
        (0, "0.2", ("0.1",)),
    ]
    assert (graph.calls, graph.threads) == (3, 1)


def test_children_fork_and_join() -> None:
    """The first child continues the thread, the second opens one, and the join continues the lowest."""
    graph, parent = Graph(), Branch()
    graph.begin(parent)
    children = [parent.fork(), parent.fork()]
    assert [graph.begin(child) for child in children] == [(0, "0.1", ("0.0",)), (1, "1.0", ("0.0",))]
    for child in reversed(children):
        child.finish()
    thread, call, parents = graph.begin(parent)
    assert (thread, call, set(parents)) == (0, "0.2", {"0.1", "1.0"})


def test_a_running_child_is_no_parent() -> None:
    """Only finished children are folded in."""
    graph, parent = Graph(), Branch()
    child = parent.fork()
    graph.begin(child)
    assert graph.begin(parent) == (1, "1.0", ())
    child.finish()
    assert graph.begin(parent) == (0, "0.1", ("1.0", "0.0"))


def test_a_child_without_calls_changes_nothing() -> None:
    """Folding a silent child keeps the frontier."""
    graph, parent = Graph(), Branch()
    graph.begin(parent)
    parent.fork().finish()
    assert graph.begin(parent)[2] == ("0.0",)


def test_a_spawn_sees_children_that_finished_before() -> None:
    """The second child starts from what the first one did."""
    graph, parent = Graph(), Branch()
    first = parent.fork()
    graph.begin(first)
    first.finish()
    assert graph.begin(parent.fork()) == (0, "0.1", ("0.0",))


def test_grandchildren_reach_the_grandparent_through_a_silent_child() -> None:
    """A child that only waits for its own children hands on what they did."""
    graph, parent = Graph(), Branch()
    child = parent.fork()
    grandchild = child.fork()
    graph.begin(grandchild)
    grandchild.finish()
    child.finish()
    assert graph.begin(parent)[2] == ("0.0",)


def test_an_orphan_is_folded_into_the_nearest_living_ancestor() -> None:
    """A grandchild that outlives its parent is not lost."""
    graph, parent = Graph(), Branch()
    child = parent.fork()
    grandchild = child.fork()
    child.finish()
    graph.begin(grandchild)
    grandchild.finish()
    assert graph.begin(parent)[2] == ("0.0",)


def test_a_chain_of_spawns_keeps_no_ancestors() -> None:
    """A task that starts the next one and ends leaves nothing behind."""
    branch = Branch()
    for _ in range(5):
        child = branch.fork()
        branch.finish()
        branch = child
    branch.fork()
    assert branch.parent is None


def test_a_chain_of_spawns_that_are_told_late_keeps_no_ancestors() -> None:
    """An event loop tells of the end of a task after a turn, in which the next one has started another."""
    living = Branch()
    earlier = living.fork()
    latest = earlier.fork()
    for _ in range(20):
        after = latest.fork()
        earlier.finish()
        earlier, latest = latest, after
    ancestors, branch = 0, latest
    while branch.parent is not None:
        ancestors, branch = ancestors + 1, branch.parent
    assert branch is living
    assert ancestors <= 3


def test_another_graph_starts_empty() -> None:
    """When a newer program takes over, calls of the older one are no parents."""
    old, new, parent = Graph(), Graph(), Branch()
    old.begin(parent)
    late = parent.fork()
    old.begin(late)
    old.closed = True
    assert new.begin(parent) == (0, "0.0", ())
    late.finish()
    assert new.begin(parent) == (0, "0.1", ("0.0",))
    other = parent.fork()
    other.graph = None
    assert new.begin(other)[2] == ()


def test_a_child_in_a_newer_graph_takes_its_parent_along() -> None:
    """A waiting parent follows its children into the program that took over."""
    old, new, parent = Graph(), Graph(), Branch()
    old.begin(parent)
    old.closed = True
    child = parent.fork()
    new.begin(child)
    child.finish()
    assert new.begin(parent) == (0, "0.1", ("0.0",))


def test_a_forked_process_names_earlier_calls_with_their_salt() -> None:
    """Calls of the other process become foreign parents, and its threads are not continued."""
    graph, branch = Graph(), Branch()
    graph.begin(branch)
    branch.after_fork("abc")
    graph.after_fork()
    assert graph.begin(branch) == (1, "1.0", ("abc.0.0",))
    branch.after_fork("xyz")
    graph.after_fork()
    assert graph.begin(branch) == (2, "2.0", ("xyz.1.0",))


def test_thread_numbers_stay_within_the_wire(monkeypatch: Any) -> None:
    """Beyond the highest number the last thread is continued, with call IDs still unique."""
    monkeypatch.setattr(_graph, "MAX_THREAD", 1)
    graph = Graph()
    assert [graph.begin(Branch())[1] for _ in range(4)] == ["0.0", "1.0", "1.1", "1.2"]


def test_a_frontier_is_bounded_and_written_as_joins_all() -> None:
    """5,000 parents neither grow without bound nor fit a header."""
    graph, parent = Graph(), Branch()
    for _ in range(5000):
        child = parent.fork()
        child.at_fork = child.frontier = ()
        graph.begin(child)
        child.finish()
    thread, call, parents = graph.begin(parent)
    assert (thread, len(parents)) == (0, _graph.MAX_FRONTIER)
    text = encode_call(CallContext(ProgramId("p"), "s", thread, call, parents))
    assert decode_call("p", text).parents is None


class _Interrupted(Graph):
    """A graph in the middle of which a finalizer starts a task that makes a call, once at each of its steps."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.branch = branch
        self.interrupted: list[str] = []
        self.interrupting = False
        self.calls_made: list[CallId] = []

    def _interrupt(self, step: str) -> None:
        if step not in self.interrupted and not self.interrupting:
            self.interrupted.append(step)
            self.interrupting = True
            child = self.branch.fork()
            self.calls_made.append(self.begin(child)[1])
            child.finish()
            self.interrupting = False

    def _adopt(self, branch: Branch) -> None:
        self._interrupt("adopt")
        super()._adopt(branch)

    def _settle(self, branch: Branch) -> tuple[CallId, ...]:
        self._interrupt("settle")
        return super()._settle(branch)

    def _open_thread(self) -> int:
        self._interrupt("open")
        return super()._open_thread()


def test_the_garbage_collector_may_call_and_spawn_from_inside() -> None:
    """Code that runs in the middle of ours, in our own thread, neither hangs nor gets a call ID twice."""

    def history() -> tuple[_Interrupted, list[CallId]]:
        parent = Branch()
        graph = _Interrupted(parent)
        calls = []
        for _ in range(3):
            children = [parent.fork(), parent.fork()]
            calls += [graph.begin(child)[1] for child in children]
            for child in children:
                child.finish()
            calls.append(graph.begin(parent)[1])
        return graph, calls

    graph, calls = finishes(history)
    assert set(graph.interrupted) == {"adopt", "settle", "open"}
    calls += graph.calls_made
    assert len(set(calls)) == len(calls) == graph.calls == 12


class _Reference:
    """The rules as they are written down: a child is folded in when its parent next calls or spawns."""

    def __init__(self, parent: _Reference | None) -> None:
        self.parent = parent
        self.children: list[_Reference] = []
        self.finished = False
        self.at_fork = set(parent.frontier) if parent else set()
        self.frontier = set(self.at_fork)

    def fold(self) -> None:
        for child in [child for child in self.children if child.finished]:
            child.fold()
            self.children.remove(child)
            self.children += child.children
            if child.frontier != child.at_fork:
                self.frontier = (self.frontier - child.at_fork) | child.frontier


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(["call", "spawn", "finish"]), st.integers(0, 7)), max_size=60))
def test_any_history_follows_the_rules(history: list[tuple[str, int]]) -> None:
    """Parents match the rules as written, IDs are unique, and each call continues the right thread."""
    graph = Graph()
    strands = [(Branch(), _Reference(None))]
    parents_of: dict[CallId, tuple[CallId, ...]] = {}
    tails: list[CallId] = []
    for action, pick in history:
        living = [pair for pair in strands if not pair[1].finished]
        branch, rules = living[pick % len(living)]
        rules.fold()
        if action == "call":
            thread, call, parents = graph.begin(branch)
            assert set(parents) == rules.frontier
            assert call not in parents_of
            parents_of[call] = parents
            rules.frontier = {call}
            assert thread == min((t for t, tail in enumerate(tails) if tail in parents), default=len(tails))
            tails[thread : thread + 1] = [call]
        elif action == "spawn":
            child = _Reference(rules)
            rules.children.append(child)
            strands.append((branch.fork(), child))
        elif rules.parent is not None:
            branch.finish()
            rules.finished = True
    assert graph.calls == len(parents_of)


def test_a_branch_finishes_once_whoever_reports_it() -> None:
    """Its task's callback and its parent may do so at the same time, and the parent may have gone on in between."""
    graph, parent = Graph(), Branch()
    child = parent.fork()
    graph.begin(child)
    child.finish()
    assert graph.begin(parent)[2] == ("0.0",)
    child.finish()
    graph.fold(child)
    assert graph.begin(parent)[2] == ("0.1",)


def test_a_child_that_finishes_while_it_is_told_of_is_not_asked_for_ever() -> None:
    """Its parent's end and its own may cross in two threads."""
    graph, parent = Graph(), Branch()
    child, other = parent.fork(), parent.fork()
    for branch in (child, other):
        graph.begin(branch)
    child.finish()
    child.tell_parent()
    parent.ask_children()
    assert list(parent.movers or ()) == [other]
