"""LATS (language agent tree search) on the game of 24: the model proposes steps and values states, UCT decides.

`mcts.py` runs it. LATS's reflection step is left out: a state of this game says all there is to know about it.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from game24 import State, parse_moves, start, verify
from harness import Chat, progress
from openai.types.chat import ChatCompletionMessageParam as Message
from tree import Node, backpropagate, expanded, select

PROPOSE: tuple[Message, ...] = (
    {
        "role": "system",
        "content": "You play the game of 24. Combine two of the numbers with + - * or /. Write next steps, one a line.",
    },
    {"role": "user", "content": "Numbers: 2 8 8 14"},
    {"role": "assistant", "content": "2 + 8 = 10\n8 / 2 = 4\n14 + 2 = 16\n14 - 8 = 6"},
    {"role": "user", "content": "Numbers: 3 5 9"},
    {"role": "assistant", "content": "3 * 5 = 15\n9 - 5 = 4\n9 / 3 = 3\n5 + 9 = 14"},
)
VALUE: tuple[Message, ...] = (
    {
        "role": "system",
        "content": "Can the numbers make 24 with + - * /? Try it, then say sure, likely or impossible.",
    },
    {"role": "user", "content": "Numbers: 10 14"},
    {"role": "assistant", "content": "10 + 14 = 24. sure"},
    {"role": "user", "content": "Numbers: 1 3"},
    {"role": "assistant", "content": "1 + 3 = 4, 1 * 3 = 3. impossible"},
    {"role": "user", "content": "Numbers: 4 5 8"},
    {"role": "assistant", "content": "8 + 4 * 5 = 28. likely"},
)
VOTES = {"sure": 1.0, "likely": 0.5, "impossible": 0.0}
UNDECIDED = 0.5
"""Value of a state when no vote can be read."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to search one puzzle.

    Attributes:
        iterations: leaves expanded at most.
        parallel: leaves expanded at once.
        samples: proposal calls per expansion.
        votes: value calls per new state.
        width: children kept per expansion, those proposed most often first.
        rollout: ``random`` plays rollouts with random legal moves, and expands by some where the model proposes
            nothing legal; ``model`` asks the model for every move.
        exploration: weight of the UCT bonus, 0 or more.
        max_tokens: bound on every reply, in tokens.
        temperature: sampling temperature of all calls.
        seed: seeds every random move; the model's sampling is its own.
    """

    iterations: int = 6
    parallel: int = 2
    samples: int = 3
    votes: int = 1
    width: int = 3
    rollout: str = "random"
    exploration: float = 1.0
    max_tokens: int = 48
    temperature: float = 0.7
    seed: int = 0


DEFAULTS = Settings()


@dataclass(slots=True)
class Findings:
    """What a search found, filled in as it goes.

    Attributes:
        solution: proved expression, or `None`.
        source: ``model``, or ``rollout`` when random moves helped to find the solution.
        iterations: leaves expanded.
        nodes: size of the tree.
        legal, illegal: steps that the model proposed.
        empty_expansions: expansions for which the model proposed nothing legal.
        unreadable_votes: value calls without a verdict.
    """

    solution: str | None = None
    source: str | None = None
    iterations: int = 0
    nodes: int = 1
    legal: int = 0
    illegal: int = 0
    empty_expansions: int = 0
    unreadable_votes: int = 0


class Position(NamedTuple):
    """A state of the game, and whether every move that led to it was the model's."""

    state: State
    by_model: bool


class Growth(NamedTuple):
    """What an expansion brought: rewards to propagate, and the finished games it met, in a fixed order."""

    rewards: list[tuple[Node[Position], float]]
    finished: list[Position]


class Search:
    """The search of one puzzle.

    Attributes:
        found: what is known so far, also when a call failed and ended the search.
    """

    def __init__(self, chat: Chat, settings: Settings, numbers: Sequence[int]) -> None:
        self._chat = chat
        self._settings = settings
        self._numbers = tuple(numbers)
        self.found = Findings()
        self._root = Node(Position(start(numbers), True))

    async def run(self) -> None:
        """Search until a solution is proved, the iterations are spent, or nothing is left to expand.

        Raises:
            ExceptionGroup: of `CallFailed`; the calls beside the failed one are cancelled.
        """
        while self.found.solution is None and (leaves := self._select_leaves()):
            async with asyncio.TaskGroup() as group:
                growing = [group.create_task(self._grow(leaf, rng)) for leaf, rng in leaves]
            for (leaf, _), task in zip(leaves, growing, strict=True):
                expanded(leaf)
                for node, reward in task.result().rewards:
                    backpropagate(node, reward)
                for position in task.result().finished:
                    self._prove(position)
            progress(f"{' '.join(map(str, self._numbers))} | {self.found.iterations} leaves, {self._chat.calls} calls")

    def _select_leaves(self) -> list[tuple[Node[Position], random.Random]]:
        """The leaves of one round, each with its own randomness, so that the order of replies changes nothing."""
        leaves = []
        for _ in range(min(self._settings.parallel, self._settings.iterations - self.found.iterations)):
            leaf = select(self._root, self._settings.exploration)
            if leaf is None:
                break
            leaves.append((leaf, random.Random(f"{self._settings.seed}/{self.found.iterations}")))
            self.found.iterations += 1
        return leaves

    async def _grow(self, leaf: Node[Position], rng: random.Random) -> Growth:
        """Expand a leaf, value its children side by side, and play the best of them to its end."""
        positions = await self._expand(leaf.state, rng)
        if not positions:
            return Growth([(leaf, 0.0)], [])
        children = [leaf.add(position, closed=position.state.is_final) for position in positions]
        self.found.nodes += len(children)
        async with asyncio.TaskGroup() as group:
            valued = [group.create_task(self._value(position.state)) for position in positions]
        rewards = [(child, task.result()) for child, task in zip(children, valued, strict=True)]
        finished = [position for position in positions if position.state.is_final]
        if not finished:
            best, _ = max(rewards, key=lambda reward: reward[1])
            end = await self._roll_out(best.state, rng)
            finished.append(end)
            rewards.append((best, float(end.state.is_solved)))
        return Growth(rewards, finished)

    async def _expand(self, position: Position, rng: random.Random) -> list[Position]:
        """The model's steps from here, the most frequent first; random ones where it has none and they are allowed."""
        states = await self._propose(position.state, self._settings.samples)
        by_model = position.by_model
        if not states:
            self.found.empty_expansions += 1
            if self._settings.rollout == "model":
                return []
            moves = position.state.legal_moves()
            states = _distinct(map(position.state.play, rng.sample(moves, len(moves))))
            by_model = False
        return [Position(state, by_model) for state in states[: self._settings.width]]

    async def _propose(self, state: State, samples: int) -> list[State]:
        """Ask for steps `samples` times at once; the states they lead to, counting what breaks the rules."""
        question: Message = {"role": "user", "content": f"Numbers: {state}"}
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self._chat.ask([*PROPOSE, question], self._settings.max_tokens))
                for _ in range(samples)
            ]
        played = [state.play(move) for task in asked for move in parse_moves(task.result())]
        self.found.illegal += played.count(None)
        self.found.legal += len(played) - played.count(None)
        return _distinct(played)

    async def _value(self, state: State) -> float:
        """Mean of the model's votes on a state, 0 to 1; a finished game is decided by its number."""
        if state.is_final:
            return float(state.is_solved)
        question: Message = {"role": "user", "content": f"Numbers: {state}"}
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self._chat.ask([*VALUE, question], self._settings.max_tokens))
                for _ in range(self._settings.votes)
            ]
        votes = [parse_vote(task.result()) for task in asked]
        self.found.unreadable_votes += votes.count(None)
        readable = [vote for vote in votes if vote is not None]
        return sum(readable) / len(readable) if readable else UNDECIDED

    async def _roll_out(self, position: Position, rng: random.Random) -> Position:
        """Play on until one number is left, or until the model has no legal step."""
        while not position.state.is_final:
            state = position.state
            if self._settings.rollout == "random":
                following = _distinct([state.play(rng.choice(state.legal_moves()))])
            else:
                following = await self._propose(state, samples=1)
            if not following:
                break
            position = Position(following[0], position.by_model and self._settings.rollout == "model")
        return position

    def _prove(self, position: Position) -> None:
        """Record a finished game as the solution if it is one; the first proof stays."""
        if self.found.solution is None and position.state.is_solved:
            expression = position.state.terms[0].expression
            if verify(expression, self._numbers):
                self.found.solution = expression[1:-1]
                self.found.source = "model" if position.by_model else "rollout"


def _distinct(states: Iterable[State | None]) -> list[State]:
    """Legal states without those that play alike, the most frequent first, else in order."""
    legal = [state for state in states if state is not None]
    first = {state.key: state for state in reversed(legal)}
    return [first[key] for key, _ in Counter(state.key for state in legal).most_common()]


def parse_vote(reply: str) -> float | None:
    """The last of the words sure, likely and impossible in a reply, as a value; `None` when there is none."""
    words = re.findall(r"\b(?:sure|likely|impossible)\b", reply.lower())
    return VOTES[words[-1]] if words else None
