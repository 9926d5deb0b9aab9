"""The search tree: UCT, virtual loss, back-propagation."""

from __future__ import annotations

import math
import random

import pytest
from game24 import start
from hypothesis import given
from hypothesis import strategies as st
from mcts import Node, roll_out


def grown(parent: Node, children: int, numbers: tuple[int, ...] = (1, 2)) -> list[Node]:
    """The node expanded by children that hold `numbers`; a single number is final."""
    assert parent.select() is parent
    parent.children = [Node(start(numbers), parent) for _ in range(children)]
    parent.release()
    return parent.children


def test_uct_is_mean_reward_plus_bonus() -> None:
    """The formula, by hand; an unvisited child beats everything."""
    root = Node(start((1, 2, 3)))
    often, once, never = grown(root, 3)
    for _ in range(3):
        often.backpropagate(0.5)
    once.backpropagate(0.25)
    assert often.uct == pytest.approx(0.5 + math.sqrt(math.log(4) / 3))
    assert once.uct == pytest.approx(0.25 + math.sqrt(math.log(4) / 1))
    assert never.uct == math.inf
    assert root.select() is never


def test_an_expansion_in_flight_counts_as_a_visit_without_reward() -> None:
    """Virtual loss lowers the bound of the path, and release restores it."""
    root = Node(start((1, 2, 3)))
    (child,) = grown(root, 1)
    child.backpropagate(1.0)
    before = child.uct
    assert root.select() is child
    assert child.uct == pytest.approx(1 / 2 + math.sqrt(math.log(2) / 2))
    child.release()
    assert child.uct == before


def test_rewards_reach_the_root() -> None:
    """Every node on the path is credited, and no other."""
    root = Node(start((1, 2, 3)))
    left, right = grown(root, 2)
    Node(start((3,)), left).backpropagate(1.0)
    right.backpropagate(0.25)
    assert [(node.visits, node.reward) for node in (root, left, right)] == [(2, 1.25), (1, 1.0), (1, 0.25)]


def test_virtual_loss_spreads_parallel_selections() -> None:
    """Each leaf is handed out once; when all are out there is nothing to select until one comes back."""
    root = Node(start((1, 2, 3)))
    children = grown(root, 3)
    for child, reward in zip(children, (0.9, 0.5, 0.1), strict=True):
        child.backpropagate(reward)
    assert [root.select() for _ in range(4)] == [*children, None]
    assert root.in_flight == 3
    children[1].release()
    assert root.select() is children[1]


def test_the_root_alone_is_selected_once() -> None:
    """A tree of one leaf in flight offers no other."""
    root = Node(start((1, 2)))
    assert root.select() is root
    assert root.select() is None


def test_finished_games_are_never_selected() -> None:
    """A tree of which every leaf is final has nothing left."""
    root = Node(start((1, 2, 3)))
    for child in grown(root, 2):
        assert root.is_open
        grown_child = root.select()
        assert grown_child is child
        child.children = [Node(start((3,)), child)]
        child.release()
        child.children[0].backpropagate(0.0)
    assert not root.is_open
    assert root.select() is None


def test_a_leaf_that_got_no_children_is_tried_again() -> None:
    """Another sample may bring what the first did not."""
    root = Node(start((1, 2)))
    assert root.select() is root
    root.release()
    root.backpropagate(0.0)
    assert root.select() is root


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_accounts_balance_after_any_search(seed: int, parallel: int) -> None:
    """After every round nothing is in flight, and a parent's visits are at least its children's together."""
    rng = random.Random(seed)
    root = Node(start((4, 9, 10, 13)))
    for _ in range(8):
        leaves = [leaf for _ in range(parallel) if (leaf := root.select()) is not None]
        assert len(set(map(id, leaves))) == len(leaves)
        for leaf in leaves:
            states = [leaf.state.play(rng.choice(leaf.state.legal_moves())) for _ in range(rng.randrange(4))]
            leaf.children = [Node(state, leaf) for state in states if state is not None]
            for child in leaf.children:
                child.backpropagate(rng.random())
            leaf.release()
    nodes = [root]
    for node in nodes:
        nodes += node.children
        assert node.in_flight == 0
        assert node.visits >= sum(child.visits for child in node.children)
        assert 0 <= node.reward <= node.visits


@given(st.lists(st.integers(0, 13), min_size=1, max_size=4), st.integers(0, 2**32))
def test_a_rollout_ends_with_one_number(numbers: list[int], seed: int) -> None:
    """Same seed, same end; a finished game is its own."""
    state = start(numbers)
    end = roll_out(state, random.Random(seed))
    assert end.is_final
    assert end == roll_out(state, random.Random(seed))
    assert end is not state or len(numbers) == 1
