"""The documentation and arithmetic tools."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools import (
    MAX_OBSERVATION_CHARS,
    PYTHON_TOOLS,
    calculate,
    document,
    shorten,
    signature,
)

numbers = st.one_of(st.integers(0, 999).map(str), st.floats(0, 99, width=16).map(str))
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner),
        st.builds("{}({})".format, st.sampled_from("+-"), inner),
        st.builds("({})**{}".format, inner, st.integers(-3, 3)),
    ),
    max_leaves=6,
)


@given(expressions)
def test_arithmetic_is_pythons(expression: str) -> None:
    """Whatever is accepted has Python's value, and only division by zero and size are refused."""
    shown = calculate(expression)
    if not re.search("by zero|too large|longer than|finite", shown):
        assert shown == str(eval(expression))


@pytest.mark.parametrize(
    "bomb",
    [
        "9**9**9",
        "9**-9**9**9",
        "10**10**10",
        "(2**1000)**(2**1000)",
        "2**2000 * 2**2000",
        "1e308 * 10",
        "1e999",
        "1.5**99999",
        "10**600/3",
        "(-8)**0.5",
        "0**-1",
        "1/0",
        "5 % 0",
        "(" * 120 + "1" + ")" * 79,
        "1+" * 400 + "1",
    ],
)
def test_bombs_are_refused(bomb: str) -> None:
    """What would take forever, overflow or leave the real numbers is refused at once."""
    assert calculate(bomb).startswith("Cannot calculate: ")


@pytest.mark.parametrize("bomb_that_is_none", ["1**9999999999", "(-1)**(2**1000)", "0**(2**1000)", "0.5**99999"])
def test_powers_of_small_bases_are_harmless(bomb_that_is_none: str) -> None:
    """A huge exponent is fine where the result stays small."""
    assert float(calculate(bomb_that_is_none)) in (0, 1)


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "a", "", "1,000", "True + 1", "1j", "'a' * 9", "[1]", "1 if 1 else 2", "3 +", "1\0"],
)
def test_what_is_not_arithmetic_gets_advice(text: str) -> None:
    """Names, calls and broken syntax give an observation, not an exception."""
    assert calculate(text).startswith("Cannot calculate: ")


def test_deep_nesting_is_harmless() -> None:
    """What fits the bound on the length is never too deep."""
    assert calculate("-" * 198 + "1") == "1"
    assert calculate("(" * 90 + "7" + ")" * 90) == "7"


@pytest.mark.parametrize("text", ["1or 2", "0x1for x in y", "'\\d'", "1 is 1"])
def test_pythons_advice_is_kept_to_itself(text: str, recwarn: pytest.WarningsRecorder) -> None:
    """Text that makes the parser warn gives an observation and nothing else."""
    assert calculate(text).startswith("Cannot calculate: ")
    assert list(recwarn) == []


def test_a_calculators_power_is_understood() -> None:
    """Models write ``2^20``; it is bounded like ``**``."""
    assert calculate("2^20") == "1048576"
    assert calculate("9^9^9") == "Cannot calculate: the power is too large."


@given(st.text(max_size=300))
def test_tools_take_any_text(text: str) -> None:
    """No text makes a tool raise, and no observation is longer than its bound."""
    for name in ("Doc", "Signature"):
        assert 0 < len(PYTHON_TOOLS[name](text)) <= MAX_OBSERVATION_CHARS
    assert PYTHON_TOOLS["Calculate"](text)


def test_documentation_of_a_method() -> None:
    """Doc shows the first lines of Python's own documentation."""
    assert document("str.split").startswith("Return a list of the substrings in the string")
    assert document("`list.index()`").startswith("Return first index of value.")
    assert document("math.gcd") == "Greatest Common Divisor."


def test_signature_of_a_function() -> None:
    """Signature shows parameters and defaults, whatever stands around the name."""
    assert signature("str.split") == "str.split(self, /, sep=None, maxsplit=-1)"
    assert signature(' "sorted(x)" ') == "sorted(iterable, /, *, key=None, reverse=False)"
    assert signature("math") == "Python declares no parameters for it. Try Doc[math]."


def test_unknown_names_get_similar_ones() -> None:
    """A near miss is answered with the names that exist."""
    assert document("str.splitt").startswith("Nothing is named 'splitt'. Similar names: split")


def test_names_are_never_imported() -> None:
    """A module outside the list is not imported, however it is named."""
    sys.modules.pop("antigravity", None)
    for name in ("antigravity", "antigravity.fly", "builtins.__import__", "os.system", "__main__"):
        assert document(name).startswith("Nothing is named")
    assert "antigravity" not in sys.modules


@given(st.text(max_size=400), st.integers(20, 100))
def test_shorten_bounds_length(text: str, limit: int) -> None:
    """The result is one line within the limit, and short text only loses extra space."""
    line = shorten(text, limit)
    assert len(line) <= limit
    assert "\n" not in line
    assert line == " ".join(text.split()) or len(" ".join(text.split())) > limit or not text.isprintable()
