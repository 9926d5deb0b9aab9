#!/usr/bin/env python3
"""Monte Carlo tree search in the manner of LATS (language agent tree search) on the game of 24.

    python examples/mcts.py                              # built-in puzzles
    python examples/mcts.py --numbers 4 9 10 13 --iterations 20 --parallel 4

The model proposes steps (several samples at once) and values states as sure, likely or impossible. UCT picks what to
expand next, several leaves at a time under virtual loss; a rollout plays the best new state to its end with random
moves; rewards are propagated back. LATS's reflection is left out: a state of this game says all there is to know. Only
legal moves count, and a solution is proved before it is reported, with who found it: the model or a random rollout.

Works with any OpenAI-compatible server (--base-url). On an Autellix server each puzzle is one program: the lines
marked `# autellix` are all it takes.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cli import (
    CallFailed,
    Outcome,
    count,
    dialogue,
    failures_in_a_sentence,
    finish,
    first_failure,
    options,
    reply_of,
    side_by_side,
)
from game24 import PUZZLES, State, parse_moves, solve, start, verify
from openai import AsyncOpenAI

import autellix_sdk as autellix  # autellix

EXPLORATION = 1.0
"""Weight of the UCT bonus for states seldom visited."""


async def search_all(puzzles: Iterable[Sequence[int]], args: Namespace) -> list[Result]:
    """Search the puzzles, each as one program."""
    autellix.init(base_url=args.base_url)  # autellix
    async with AsyncOpenAI(base_url=args.base_url, api_key=args.api_key) as client:
        return await side_by_side(lambda numbers: run_program(client, numbers, args), puzzles, args)


async def run_program(client: AsyncOpenAI, numbers: Sequence[int], args: Namespace) -> Result:
    """Search one puzzle as one program. A call that fails ends it and is reported in the result."""
    search = Search(client, numbers, args)
    result = search.result
    began = time.monotonic()
    async with autellix.program("mcts") as program:  # autellix
        try:
            await search.run()
        except* CallFailed as failures:
            result.error = first_failure(failures)
    result.bill = program.bill().to_json()  # autellix
    result.seconds = time.monotonic() - began
    return result


class Search:
    """The search of one puzzle; `result` holds what is known so far, also when a call failed and ended the search."""

    def __init__(self, client: AsyncOpenAI, numbers: Sequence[int], args: Namespace) -> None:
        self._client = client
        self._args = args
        self._root = Node(start(numbers))
        self.result = Result("mcts", numbers=tuple(numbers), solvable=solve(self._root.state) is not None)

    async def _ask_one(self, *prompt: str) -> str:
        """The model's reply to a prompt, as `dialogue` takes it; possibly empty."""
        with failures_in_a_sentence(self._client):
            completion = await self._client.chat.completions.create(
                model=self._args.model,
                messages=dialogue(*prompt),
                temperature=self._args.temperature,
                max_tokens=self._args.max_tokens,
            )
        reply = reply_of(completion)
        self.result.calls += 1
        return reply

    async def _ask(self, prompts: Iterable[Sequence[str]]) -> list[str]:
        """The model's replies to several prompts, asked for side by side; a reply may be empty."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask_one(*prompt)) for prompt in prompts]
        return [task.result() for task in tasks]

    async def run(self) -> None:
        """Search until a solution is proved, the iterations are spent, or nothing is left to expand."""
        while self.result.solution is None and (leaves := self._select_leaves()):
            async with asyncio.TaskGroup() as group:
                growing = [group.create_task(self._grow(leaf)) for leaf in leaves]
            for leaf, task in zip(leaves, growing, strict=True):
                leaf.release()
                self._prove(*task.result())
            done = f"{self.result.iterations} leaves, {self.result.calls} calls"
            print(f"{' '.join(map(str, self.result.numbers))} | {done}", file=sys.stderr)

    def _select_leaves(self) -> list[Node]:
        """The leaves of one round."""
        most = min(self._args.parallel, self._args.iterations - self.result.iterations)
        leaves = [leaf for _ in range(most) if (leaf := self._root.select())]
        self.result.iterations += len(leaves)
        return leaves

    async def _grow(self, leaf: Node) -> tuple[State, str]:
        """Expand a leaf, value its children, play the best of them to its end; that end, and who got there."""
        leaf.children = [Node(state, leaf) for state in await self._propose(leaf.state)]
        self.result.nodes += len(leaf.children)
        for child, value in zip(leaf.children, await self._values(leaf.children), strict=True):
            child.backpropagate(value)
        best = max(leaf.children, key=lambda child: child.reward, default=leaf)
        if best.state.is_final:
            return best.state, "model"
        end = roll_out(best.state, random.Random(f"{self._args.seed}: {best.state}, {best.visits}"))
        best.backpropagate(float(end.is_solved))
        return end, "rollout"

    async def _propose(self, state: State) -> list[State]:
        """The states that the model's steps lead to, the most frequent first; steps against the rules are counted."""
        replies = await self._ask([(*PROPOSE, f"Numbers: {state}")] * self._args.samples)
        played = [state.play(move) for reply in replies for move in parse_moves(reply)]
        legal = [after for after in played if after is not None]
        self.result.legal += len(legal)
        self.result.illegal += len(played) - len(legal)
        first = {after.key: after for after in reversed(legal)}
        frequent = Counter(after.key for after in legal).most_common(self._args.width)
        return [first[key] for key, _ in frequent]

    async def _values(self, nodes: Sequence[Node]) -> list[float]:
        """The model's verdicts on sibling states, 0 to 1; finished games are decided by their number."""
        if nodes and nodes[0].state.is_final:
            return [float(node.state.is_solved) for node in nodes]
        return [parse_vote(reply) for reply in await self._ask((*VALUE, f"Numbers: {node.state}") for node in nodes)]

    def _prove(self, end: State, source: str) -> None:
        """Record a finished game as the solution if it is one; the first proof stays."""
        expression = end.terms[0].expression
        if self.result.solution is None and end.is_solved and verify(expression, self.result.numbers):
            self.result.solution, self.result.source = expression[1:-1], source


@dataclass(slots=True, kw_only=True)
class Result(Outcome):
    """What one program did: tree size, steps proposed, and who found the solution, ``model`` or ``rollout``."""

    numbers: tuple[int, ...]
    solvable: bool
    solution: str | None = None
    source: str | None = None
    iterations: int = 0
    nodes: int = 1
    legal: int = 0
    illegal: int = 0

    def __str__(self) -> str:
        """One line for a person."""
        told = f"failed: {self.error}" if self.error else "not solved" + ("" if self.solvable else ", has no solution")
        if self.solution:
            told = f"{self.solution} = 24, by {'its own moves' if self.source == 'model' else 'a random rollout'}"
        counts = f"{self.calls} calls, {self.nodes} nodes, {self.legal} legal and {self.illegal} illegal proposals"
        return f"{' '.join(map(str, self.numbers))}: {told}  [{counts}, {self.seconds:.1f} s]"


@dataclass(eq=False, slots=True)
class Node:
    """A state in the tree and what the search has learned about it.

    Attributes:
        visits, reward: how many rewards passed through here, and their sum; each lies between 0 and 1.
        in_flight: expansions under way at this node or below it (virtual loss).
    """

    state: State
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    reward: float = 0.0
    in_flight: int = 0

    @property
    def is_open(self) -> bool:
        """Whether some leaf at or below this node is neither final nor being expanded."""
        if self.children:
            return any(child.is_open for child in self.children)
        return not self.state.is_final and not self.in_flight

    @property
    def uct(self) -> float:
        """Upper confidence bound: mean reward plus a bonus that shrinks with visits; infinite before the first one.

        Every expansion in flight counts as a visit that earned nothing, so that parallel selections spread out.
        """
        visits = self.visits + self.in_flight
        if visits == 0 or self.parent is None:
            return math.inf
        siblings = max(1, self.parent.visits + self.parent.in_flight)
        return self.reward / visits + EXPLORATION * math.sqrt(math.log(siblings) / visits)

    def to_root(self) -> Iterator[Node]:
        """This node, its parent, and so on up to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def select(self) -> Node | None:
        """Walk down by UCT to an open leaf and put it in flight, until `release`; `None` when there is none."""
        node = self
        if not node.is_open:
            return None
        while node.children:
            node = max((child for child in node.children if child.is_open), key=lambda child: child.uct)
        for above in node.to_root():
            above.in_flight += 1
        return node

    def release(self) -> None:
        """Take back the virtual loss of a leaf; one that got no children may be selected again."""
        for above in self.to_root():
            above.in_flight -= 1

    def backpropagate(self, reward: float) -> None:
        """Credit `reward` (0 to 1) to this node and to every node above it."""
        for above in self.to_root():
            above.visits += 1
            above.reward += reward


def roll_out(state: State, rng: random.Random) -> State:
    """Play random legal moves until one number is left."""
    while not state.is_final:
        state = state.play(rng.choice(state.legal_moves())) or state
    return state


def parse_vote(reply: str) -> float:
    """The last of the words sure, likely and impossible in a reply, as a value; undecided when there is none."""
    words = re.findall(r"\b(?:sure|likely|impossible)\b", reply.lower())
    return {"sure": 1.0, "likely": 0.5, "impossible": 0.0}[words[-1] if words else "likely"]


def summary(results: Sequence[Result]) -> str:
    """What the programs achieved, in one sentence."""
    by = Counter(result.source for result in results)
    return (
        f"{len(results)} programs: {by['model'] + by['rollout']} of {sum(result.solvable for result in results)} "
        f"solvable puzzles solved, {by['model']} by the model's own moves and {by['rollout']} by random rollouts; "
        f"{sum(result.error is not None for result in results)} failed."
    )


PROPOSE = (
    "You play the game of 24. Combine two of the numbers with + - * or /. Write next steps, one a line.",
    *("Numbers: 2 8 8 14", "2 + 8 = 10\n8 / 2 = 4\n14 + 2 = 16\n14 - 8 = 6"),
    *("Numbers: 3 5 9", "3 * 5 = 15\n9 - 5 = 4\n9 / 3 = 3\n5 + 9 = 14"),
)
VALUE = (
    "Can the numbers make 24 with + - * /? Try it, then say sure, likely or impossible.",
    *("Numbers: 10 14", "10 + 14 = 24. sure"),
    *("Numbers: 1 3", "1 + 3 = 4, 1 * 3 = 3. impossible"),
    *("Numbers: 4 5 8", "8 + 4 * 5 = 28. likely"),
)


def parse_arguments(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line; bad usage exits with 2."""
    parser = options(__doc__, "puzzles", max_tokens=48, temperature=0.7)
    add = parser.add_argument
    add("--numbers", type=count, nargs=4, action="append", metavar="N", help="solve these numbers (repeatable)")
    add("--iterations", type=count, default=6, help="leaves expanded at most (default: %(default)s)")
    add("--parallel", type=count, default=2, help="leaves expanded at once (default: %(default)s)")
    add("--samples", type=count, default=3, help="proposal calls per expansion (default: %(default)s)")
    add("--width", type=count, default=3, help="children kept per expansion (default: %(default)s)")
    add("--seed", type=int, default=0, help="seeds the rollouts, not the model (default: %(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    args = parse_arguments()
    puzzles = (args.numbers or list(PUZZLES))[: args.limit]
    sys.exit(finish(search_all(puzzles, args), summary, args))
