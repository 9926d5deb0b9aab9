"""The game of 24: rules, moves and proofs, in exact fractions. Pure: no model, no randomness."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations

GOAL = Fraction(24)

PUZZLES: Mapping[tuple[int, ...], bool] = {
    (1, 2, 3, 4): True,
    (4, 6, 8, 2): True,
    (4, 9, 10, 13): True,
    (2, 5, 8, 11): True,
    (3, 3, 8, 8): True,
    (5, 5, 5, 1): True,
    (1, 4, 8, 8): True,
    (1, 1, 1, 1): False,
}
"""Built-in puzzles, easy ones first, and whether a solution exists."""


@dataclass(frozen=True, slots=True)
class Term:
    """A number in hand and the expression over the puzzle's numbers that made it."""

    value: Fraction
    expression: str


@dataclass(frozen=True, slots=True)
class Move:
    """One step: two numbers in hand become ``left operator right``; `operator` is one of ``+ - * /``."""

    left: Fraction
    operator: str
    right: Fraction

    def result(self) -> Fraction | None:
        """The new number; `None` for a division by zero."""
        match self.operator:
            case "+":
                return self.left + self.right
            case "-":
                return self.left - self.right
            case "*":
                return self.left * self.right
        return self.left / self.right if self.right else None

    def __str__(self) -> str:
        """As the model writes it: ``4 + 9 = 13``."""
        return f"{self.left} {self.operator} {self.right} = {self.result()}"


@dataclass(frozen=True, slots=True)
class State:
    """The numbers in hand and the moves that led here. One number in hand ends the game."""

    terms: tuple[Term, ...]
    moves: tuple[Move, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether no move is left."""
        return len(self.terms) == 1

    @property
    def is_solved(self) -> bool:
        """Whether the one number in hand is 24."""
        return self.is_final and self.terms[0].value == GOAL

    @property
    def key(self) -> tuple[Fraction, ...]:
        """The numbers in hand, sorted: equal for states that play alike."""
        return tuple(sorted(term.value for term in self.terms))

    def __str__(self) -> str:
        """The numbers in hand, as a prompt shows them: ``10 13 13``."""
        return " ".join(str(value) for value in self.key)

    def play(self, move: Move) -> State | None:
        """The state after `move`; `None` when its numbers are not in hand or it divides by zero."""
        rest = list(self.terms)
        taken: list[Term] = []
        for value in (move.left, move.right):
            term = next((term for term in rest if term.value == value), None)
            if term is None:
                return None
            rest.remove(term)
            taken.append(term)
        made_value = move.result()
        if made_value is None:
            return None
        made = Term(made_value, f"({taken[0].expression} {move.operator} {taken[1].expression})")
        return State((*rest, made), (*self.moves, move))

    def legal_moves(self) -> list[Move]:
        """Every legal move, in a fixed order, without those that only swap equal numbers."""
        pairs = permutations((term.value for term in self.terms), 2)
        moves = dict.fromkeys(Move(left, operator, right) for left, right in pairs for operator in "+-*/")
        return [move for move in moves if move.result() is not None]


def start(numbers: Sequence[int]) -> State:
    """The state before the first move."""
    return State(tuple(Term(Fraction(number), str(number)) for number in numbers))


_NUMBER = r"-?\d{1,6}(?:\.\d{1,6}|/\d{1,6})?"
_MOVE = re.compile(
    rf"(?<![\d./])({_NUMBER})\s*([-+*/x×÷−])\s*({_NUMBER})(?![\d.])",  # noqa: RUF001 - models write these
    re.ASCII,
)
_OPERATORS = {"x": "*", "×": "*", "÷": "/", "−": "-"}  # noqa: RUF001


def parse_moves(text: str) -> list[Move]:
    """Moves that a model proposed, one a line, such as ``4 + 9 = 13 (left: 10 13 13)``; other lines say nothing.

    A result that the model claims is ignored: it chooses the step, the rules compute it.
    """
    moves = []
    for line in text.splitlines():
        found = _MOVE.search(line)
        if found:
            try:
                left, right = Fraction(found[1]), Fraction(found[3])
            except ZeroDivisionError:
                continue
            moves.append(Move(left, _OPERATORS.get(found[2], found[2]), right))
    return moves


def verify(expression: str, numbers: Iterable[int]) -> bool:
    """Whether `expression` uses each of `numbers` exactly once and equals 24; shares no code with `State.play`."""
    used: Counter[int] = Counter()

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int(number)):
                used[number] += 1
                return Fraction(number)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return value(left) - value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return value(left) * value(right)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                return value(left) / value(right)
        raise ValueError("not an expression of the game")

    try:
        return value(ast.parse(expression, mode="eval").body) == GOAL and used == Counter(numbers)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False


def solve(state: State) -> State | None:
    """A solved state reachable from `state`, by exhaustive search; `None` when there is none."""
    seen: set[tuple[Fraction, ...]] = set()

    def search(state: State) -> State | None:
        if state.is_solved:
            return state
        for move in state.legal_moves():
            child = state.play(move)
            if child is not None and child.key not in seen:
                seen.add(child.key)
                if found := search(child):
                    return found
        return None

    return search(state)
