"""Tools for an agent: look-up in Python's own documentation, and arithmetic that no expression can blow up.

Every tool takes the text that a model wrote and returns an observation. Text it cannot use gives an observation that
says what is expected, never an exception.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import math
import operator
import pydoc
import warnings
from collections.abc import Callable, Mapping

Toolbox = Mapping[str, Callable[[str], str]]
"""Action name to tool."""

MAX_OBSERVATION_CHARS = 240
MAX_EXPRESSION_CHARS = 200
MAX_BITS = 2048
"""Integers stay below 2**2048 (616 digits); a power that would pass it is refused before it is computed."""

Number = int | float


class Refused(Exception):
    """The expression is not arithmetic, or too large; the message is part of an observation."""


def calculate(expression: str) -> str:
    """Tool ``Calculate[expression]``: the value, or what is wrong with the expression.

    Takes numbers, parentheses, and ``+ - * / // % **`` with Python's meaning; ``^`` is a power, too.
    """
    try:
        if len(expression) > MAX_EXPRESSION_CHARS:
            raise Refused(f"the expression is longer than {MAX_EXPRESSION_CHARS} characters")
        with warnings.catch_warnings(action="ignore"):  # Python's advice on text such as "1or 2"
            tree = ast.parse(expression.strip().replace("^", "**"), mode="eval")
        return str(_value(tree.body))
    except Refused as refused:
        reason = str(refused)
    except ZeroDivisionError:
        reason = "it divides by zero"
    except OverflowError:
        reason = "the result is too large"
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        reason = "write plain arithmetic such as 17 * (3 + 4)"
    return f"Cannot calculate: {reason}."


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and exponent * (base.bit_length() - 1) > MAX_BITS:
        raise Refused("the power is too large")
    value = base**exponent
    if isinstance(value, complex):
        raise Refused("the result is not a real number")
    return value


_BINARY: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            return -_value(operand) if isinstance(sign, ast.USub) else _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
    raise Refused("only numbers, parentheses and + - * / // % ** are allowed")


def _bounded(value: Number) -> Number:
    if math.isinf(value) if isinstance(value, float) else value.bit_length() > MAX_BITS:
        raise Refused("the number is too large")
    return value


MODULES = ("builtins", "collections", "functools", "itertools", "json", "math", "random", "re", "statistics", "string")
"""The only modules looked into: importing whatever a model names would run code, and `antigravity` opens a browser."""


def _clean(name: str) -> str:
    """``str.split`` of ``"str.split(' ')"`` and the like."""
    return name.partition("(")[0].strip(" `'\"")


def _find(name: str) -> object:
    """Object of a dotted name such as ``str.split`` or ``math.gcd``.

    Raises:
        LookupError: not found; the message is an observation.
    """
    parts = name.split(".")
    module = parts.pop(0) if parts[0] in MODULES else "builtins"
    found: object = importlib.import_module(module)
    for part in parts:
        names = [known for known in dir(found) if not known.startswith("_")]
        if part not in names:
            near = ", ".join(difflib.get_close_matches(part[:40], names))
            raise LookupError(f"Nothing is named {part[:40]!r}" + (f". Similar names: {near}." if near else "."))
        found = getattr(found, part)
    return found


def is_documented(name: str) -> bool:
    """Whether `document` knows the name."""
    try:
        _find(_clean(name))
    except LookupError:
        return False
    return True


def document(name: str) -> str:
    """Tool ``Doc[name]``: the first lines of Python's documentation of `name`."""
    try:
        text = pydoc.getdoc(_find(_clean(name)))
    except LookupError as missing:
        return str(missing)
    return shorten(text) or "It has no documentation."


def signature(name: str) -> str:
    """Tool ``Signature[name]``: the parameters of the function `name` and their defaults."""
    name = _clean(name)
    try:
        return shorten(f"{name}{inspect.signature(_find(name))}")  # type: ignore[arg-type]
    except LookupError as missing:
        return str(missing)
    except (TypeError, ValueError):  # not callable, or a built-in that declares no signature
        return f"Python declares no parameters for it. Try Doc[{name}]."


def shorten(text: str, limit: int = MAX_OBSERVATION_CHARS) -> str:
    """Join the lines of `text` and cut it to `limit` characters, if possible between words."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    cut = line[: limit - 4]
    return f"{cut.rpartition(' ')[0] or cut} ..."


PYTHON_TOOLS: Toolbox = {"Doc": document, "Signature": signature, "Calculate": calculate}
