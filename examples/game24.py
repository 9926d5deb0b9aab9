"""The game of 24: rules, moves and proofs, in exact fractions. Pure: no model, no randomness."""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations

GOAL = Fraction(24)

PUZZLES = (
    *((1, 2, 3, 4), (4, 6, 8, 2), (4, 9, 10, 13), (2, 5, 8, 11), (3, 3, 8, 8), (5, 5, 5, 1), (1, 4, 8, 8)),
    (1, 1, 1, 1),
)
"""Built-in puzzles, easy ones first; the last has no solution."""

OPERATIONS: Mapping[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


@dataclass(frozen=True, slots=True)
class Term:
    """A number in hand and the expression over the puzzle's numbers that made it."""

    value: Fraction
    expression: str


@dataclass(frozen=True, slots=True)
class Move:
    """One step: two numbers in hand become ``left sign right``; `sign` is one of ``+ - * /``."""

    left: Fraction
    sign: str
    right: Fraction

    def result(self) -> Fraction | None:
        """The new number; `None` for a division by zero."""
        return None if self.sign == "/" and not self.right else OPERATIONS[self.sign](self.left, self.right)


@dataclass(frozen=True, slots=True)
class State:
    """The numbers in hand; a single one ends the game."""

    terms: tuple[Term, ...]

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
        made = Term(made_value, f"({taken[0].expression} {move.sign} {taken[1].expression})")
        return State((*rest, made))

    def legal_moves(self) -> list[Move]:
        """Every legal move, in a fixed order, without those that only swap equal numbers."""
        pairs = permutations((term.value for term in self.terms), 2)
        moves = dict.fromkeys(Move(left, sign, right) for left, right in pairs for sign in OPERATIONS)
        return [move for move in moves if move.result() is not None]


def start(numbers: Sequence[int]) -> State:
    """The state before the first move."""
    return State(tuple(Term(Fraction(number), str(number)) for number in numbers))


_NUMBER = r"-?\d{1,6}(?:\.\d{1,6}|/[1-9]\d{0,5})?"
_MOVE = re.compile(
    rf"(?<![\d./])({_NUMBER})\s*([-+*/x×÷−])\s*({_NUMBER})(?![\d.])",  # noqa: RUF001 - models write these
    re.ASCII,
)
_SIGNS = {"x": "*", "×": "*", "÷": "/", "−": "-"}  # noqa: RUF001


def parse_moves(text: str) -> list[Move]:
    """Moves that a model proposed, one a line, such as ``4 + 9 = 13 (left: 10 13 13)``; other lines say nothing.

    A result that the model claims is ignored: it chooses the step, the rules compute it.
    """
    found = (_MOVE.search(line) for line in text.splitlines())
    return [Move(Fraction(move[1]), _SIGNS.get(move[2], move[2]), Fraction(move[3])) for move in found if move]


_NODES = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def verify(expression: str, numbers: Iterable[int]) -> bool:
    """Whether `expression` uses each of `numbers` exactly once and equals 24, read by Python's own parser."""
    used: Counter[int] = Counter()

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int(number)):
                used[number] += 1
                return Fraction(number)
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as op, right=right):
                return OPERATIONS[_NODES[type(op)]](value(left), value(right))
        raise ValueError("not an expression of the game")

    try:
        return value(ast.parse(expression, mode="eval").body) == GOAL and used == Counter(numbers)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False


def solve(state: State) -> State | None:
    """A solved state reachable from `state`, by exhaustive search; `None` when there is none."""
    if state.is_solved:
        return state
    children = {child.key: child for move in state.legal_moves() if (child := state.play(move))}
    return next((solved for child in children.values() if (solved := solve(child))), None)
