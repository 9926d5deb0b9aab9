"""Faults on demand: what kinds there are, how they are written, and which call gets one. Pure but for its `Random`."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from autellix_sdk.errors import ConfigurationError

Parameters = Mapping[str, float]

KINDS: Mapping[str, Parameters] = {
    "refuse": {"status": 503, "seconds": 1},
    "close": {},
    "cut": {"tokens": 3},
    "hang": {},
    "garbage": {},
    "slow": {"factor": 4, "seconds": 10},
    "unhealthy": {"seconds": 10},
    "die": {},
}
"""Every kind with its parameters, in the order in which ``kind:value:value`` gives them, and their defaults."""

ENGINE_KINDS = frozenset({"slow", "unhealthy", "die"})
"""Kinds that befall the engine. The others befall one call."""

_REFUSALS = (429, 500, 503)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, checked.

    Attributes:
        kind: one of `KINDS`.
        parameters: a value for each of its parameters.
    """

    kind: str
    parameters: Parameters

    def __getitem__(self, name: str) -> float:
        """Return the parameter called `name`."""
        return self.parameters[name]

    def to_json(self) -> dict[str, Any]:
        """Return it as the control endpoint takes it."""
        return {"kind": self.kind, **self.parameters}


def make_fault(kind: object, given: Mapping[str, object]) -> Fault:
    """Return a fault with defaults for what is not given.

    Raises:
        ConfigurationError: there is no such kind or parameter, or a value is out of range; names it, and what there is.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigurationError(f"unknown kind of fault {kind!a}; choose one of: {', '.join(KINDS)}")
    known = KINDS[kind]
    for name in given:
        if name not in known:
            raise ConfigurationError(f"{kind} has no parameter {name!a}; it has {', '.join(known) or 'none'}")
    return Fault(kind, {**known, **{name: _checked(kind, name, value) for name, value in given.items()}})


def parse_fault(text: str) -> Fault:
    """Read ``kind[:value[:value]]``.

    Raises:
        ConfigurationError: see `make_fault`.
    """
    kind, *values = text.split(":")
    names = tuple(KINDS.get(kind, ()))
    if kind in KINDS and len(values) > len(names):
        raise ConfigurationError(f"{text!a} has too many values; {':'.join((kind, *(n.upper() for n in names)))}")
    return make_fault(kind, dict(zip(names, map(_number, values), strict=False)))


@dataclass(frozen=True, slots=True)
class StandingFault:
    """A fault that befalls each call with a probability.

    Attributes:
        fault: the fault.
        probability: over 0, at most 1.
    """

    fault: Fault
    probability: float

    @classmethod
    def parse(cls, text: str) -> StandingFault:
        """Read ``kind[:value[:value]]@probability``.

        Raises:
            ConfigurationError: it is written in another way; says how.
        """
        fault, at, share = text.rpartition("@")
        probability = _number(share) if at else None
        if not isinstance(probability, float) or not 0 < probability <= 1:
            raise ConfigurationError(f"{text!a}: write kind[:value]@probability with a probability over 0, at most 1")
        return cls(parse_fault(fault), probability)

    def to_json(self) -> dict[str, Any]:
        """Return it as the control endpoint shows it."""
        return {**self.fault.to_json(), "probability": self.probability}


class FaultBox:
    """The faults to come. The n-th call gets the same for the same seed and the same orders.

    Args:
        standing: faults at a standing rate; a call gets the first of them whose draw falls.
        seed: of the draws.
    """

    def __init__(self, standing: Iterable[StandingFault] = (), seed: int = 0) -> None:
        self._standing = tuple(standing)
        self._scheduled: deque[Fault] = deque()
        self._random = random.Random(seed)
        self._fired: Counter[str] = Counter()

    def schedule(self, fault: Fault, count: int) -> None:
        """Let each of the next `count` calls that have none yet have `fault`."""
        self._scheduled.extend([fault] * count)

    def clear(self) -> None:
        """Drop what is scheduled and what stands."""
        self._standing = ()
        self._scheduled.clear()

    def draw(self) -> Fault | None:
        """Return the fault of the call that arrives now: a scheduled one, a drawn one, or none."""
        # Every standing fault is drawn for every call, so that what is scheduled does not shift the draws.
        drawn = [one.fault for one in self._standing if self._random.random() < one.probability]
        if self._scheduled:
            fault = self._scheduled.popleft()
        elif drawn:
            fault = drawn[0]
        else:
            return None
        self.count(fault)
        return fault

    def count(self, fault: Fault) -> None:
        """Note that a fault takes place; `draw` does it by itself."""
        self._fired[fault.kind] += 1

    def to_json(self) -> dict[str, Any]:
        """Return what stands, what is scheduled, and how many of each kind took place."""
        return {
            "standing": [one.to_json() for one in self._standing],
            "scheduled": [one.to_json() for one in self._scheduled],
            "fired": dict(self._fired),
        }


def _checked(kind: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise ConfigurationError(f"{name} of {kind} is {value!a}; write a number of 0 or more")
    if name == "status" and value not in _REFUSALS:
        raise ConfigurationError(f"status of {kind} is {value:g}; choose one of: {', '.join(map(str, _REFUSALS))}")
    if name == "factor" and value < 1:
        raise ConfigurationError(f"factor of {kind} is {value:g}; write a number of 1 or more")
    return value


def _number(text: str) -> float | str:
    """Return the number in `text`, or `text` itself for whoever checks it to complain about."""
    try:
        return float(text)
    except ValueError:
        return text
