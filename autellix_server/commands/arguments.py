"""Types of command-line arguments that several commands take."""

from __future__ import annotations

from argparse import ArgumentTypeError
from math import inf, nan


def count(text: str) -> int:
    """Return `text` as a whole number of 1 or more; argparse names the flag when it is none."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def counts(text: str) -> list[int]:
    """Return the whole numbers of 1 or more in `text`, ascending, each once."""
    return sorted({count(part) for part in text.split(",")})


def whole(text: str) -> int:
    """Return `text` as a whole number of 0 or more."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def above_zero(text: str) -> float:
    """Return `text` as a finite number above 0."""
    number = _number(text)
    if not 0 < number < inf:
        raise ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def zero_or_more(text: str) -> float:
    """Return `text` as a finite number of 0 or more."""
    number = _number(text)
    if not 0 <= number < inf:
        raise ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return number


def over_one(text: str) -> float:
    """Return `text` as a finite number over 1."""
    number = _number(text)
    if not 1 < number < inf:
        raise ArgumentTypeError(f"{text!r} is not a number over 1")
    return number


def names(text: str) -> list[str]:
    """Return the names in `text`, which single commas separate; each is kept once."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise ArgumentTypeError(f"{text!r} has an empty name; separate names by single commas")
    return list(dict.fromkeys(found))


def rates(text: str) -> list[float]:
    """Return the rates in `text`, ascending, each once; ``inf`` is one too."""
    found = [_number(part) for part in text.split(",")]
    if not all(0 < rate <= inf for rate in found):
        raise ArgumentTypeError(f"{text!r} is not a list of rates above 0, such as 0.5,1,inf")
    return sorted(set(found))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return nan
