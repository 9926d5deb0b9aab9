"""The search tree: UCT, virtual loss, closing, back-propagation."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tree import Node, backpropagate, expanded, select, uct


def grown(root: Node[str], names: str) -> list[Node[str]]:
    """The root expanded by one open child per letter."""
    assert select(root, 1.0) is root
    children = [root.add(name, closed=False) for name in names]
    expanded(root)
    return children


def test_uct_is_mean_reward_plus_bonus() -> None:
    """The formula, by hand; an unvisited child beats everything."""
    root = Node("root")
    often, once, never = grown(root, "abc")
    for _ in range(3):
        backpropagate(often, 0.5)
    backpropagate(once, 0.5)
    assert uct(often, 1.0) == pytest.approx(0.5 + math.sqrt(math.log(4) / 3))
    assert uct(once, 2.0) == pytest.approx(0.5 + 2 * math.sqrt(math.log(4) / 1))
    assert uct(often, 0.0) == 0.5
    assert uct(never, 1.0) == math.inf
    assert select(root, 1.0) is never


def test_rewards_reach_the_root() -> None:
    """Every node on the path is credited, and no other."""
    root = Node("root")
    left, right = grown(root, "ab")
    backpropagate(left.add("c", closed=False), 1.0)
    backpropagate(right, 0.25)
    assert [(node.visits, node.reward) for node in (root, left, right)] == [(2, 1.25), (1, 1.0), (1, 0.25)]


def test_virtual_loss_spreads_parallel_selections() -> None:
    """Each leaf is handed out once; when all are out there is nothing to select until one comes back."""
    root = Node("root")
    children = grown(root, "abc")
    for child, reward in zip(children, (0.9, 0.5, 0.1), strict=True):
        backpropagate(child, reward)
    assert [select(root, 1.0) for _ in range(4)] == [*children, None]
    assert root.in_flight == 3
    expanded(children[1])
    assert select(root, 1.0) is children[1]


def test_the_root_alone_is_selected_once() -> None:
    """A tree of one leaf in flight offers no other."""
    root = Node("root")
    assert select(root, 1.0) is root
    assert select(root, 1.0) is None


def test_what_is_closed_is_never_selected() -> None:
    """Final states are not expanded; a node with closed children only is closed; so is the tree in the end."""
    root = Node("root")
    left, right = grown(root, "ab")
    for parent in (left, right):
        assert select(root, 1.0) is parent
        parent.add("end", closed=True)
        expanded(parent)
        assert parent.closed
    assert root.closed
    assert select(root, 1.0) is None


def test_a_leaf_that_got_no_children_is_tried_again() -> None:
    """Another sample may bring what the first did not."""
    root = Node("root")
    assert select(root, 1.0) is root
    expanded(root)
    backpropagate(root, 0.0)
    assert select(root, 1.0) is root


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_accounts_balance_after_any_search(seed: int, parallel: int) -> None:
    """After every round nothing is in flight, and a parent's visits are at least its children's together."""
    rng = random.Random(seed)
    root = Node(0)
    for _ in range(8):
        leaves = [leaf for _ in range(parallel) if (leaf := select(root, 1.0)) is not None]
        assert len(set(map(id, leaves))) == len(leaves)
        for leaf in leaves:
            for _ in range(rng.randrange(4)):
                backpropagate(leaf.add(leaf.state + 1, closed=leaf.state == 2), rng.random())
            expanded(leaf)
    nodes = [root]
    for node in nodes:
        nodes += node.children
        assert node.in_flight == 0
        assert node.visits >= sum(child.visits for child in node.children)
        assert 0 <= node.reward <= node.visits
