"""A Monte Carlo search tree: UCT selection with virtual loss, back-propagation. Pure: knows no game and no model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Generic, TypeVar

S = TypeVar("S")


class Node(Generic[S]):
    """A state in the tree and what the search has learned about it.

    Attributes:
        state: the game state.
        parent: node it was expanded from; `None` for the root.
        children: nodes expanded from it; empty until then.
        visits: rewards that passed through here.
        reward: their sum; each lies between 0 and 1.
        in_flight: expansions under way below or at this node (virtual loss).
        closed: nothing is left to try at this node or below it.
    """

    def __init__(self, state: S, parent: Node[S] | None = None, closed: bool = False) -> None:
        self.state = state
        self.parent = parent
        self.children: list[Node[S]] = []
        self.visits = 0
        self.reward = 0.0
        self.in_flight = 0
        self.closed = closed

    def add(self, state: S, closed: bool) -> Node[S]:
        """Add a child; `closed` says that it can have no children of its own."""
        child = Node(state, self, closed)
        self.children.append(child)
        return child

    def to_root(self) -> Iterator[Node[S]]:
        """This node, its parent, and so on up to the root."""
        node: Node[S] | None = self
        while node is not None:
            yield node
            node = node.parent


def uct(node: Node[S], exploration: float) -> float:
    """Upper confidence bound of a child: mean reward plus a bonus that shrinks with visits.

    Every expansion in flight counts as a visit that earned nothing, so that parallel selections spread out. A child
    never visited comes before all others.
    """
    visits = node.visits + node.in_flight
    if visits == 0 or node.parent is None:
        return math.inf
    siblings = max(1, node.parent.visits + node.parent.in_flight)
    return node.reward / visits + exploration * math.sqrt(math.log(siblings) / visits)


def select(root: Node[S], exploration: float) -> Node[S] | None:
    """Walk down by UCT to a leaf that may be expanded and mark the path as in flight; ties go to the older child.

    Returns:
        The leaf, to be given to `expanded` later; `None` when all is closed or already in flight.
    """
    node = root
    while node.children:
        node = max(
            (child for child in node.children if _selectable(child)),
            key=lambda child: uct(child, exploration),
            default=root,
        )
        if node is root:
            return None
    if not _selectable(node):
        return None
    for above in node.to_root():
        above.in_flight += 1
    return node


def _selectable(node: Node[S]) -> bool:
    """Whether some leaf at or below `node` is neither closed nor in flight."""
    if node.closed:
        return False
    return any(map(_selectable, node.children)) if node.children else node.in_flight == 0


def expanded(leaf: Node[S]) -> None:
    """Take back the virtual loss of `leaf`, and close what has closed children only; a leaf without any stays open."""
    for node in leaf.to_root():
        node.in_flight -= 1
        node.closed = bool(node.children) and all(child.closed for child in node.children)


def backpropagate(node: Node[S], reward: float) -> None:
    """Credit `reward` (0 to 1) to `node` and to every node above it."""
    for above in node.to_root():
        above.visits += 1
        above.reward += reward
