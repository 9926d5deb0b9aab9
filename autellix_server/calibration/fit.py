"""The fit: coefficients of 0 or more that explain what was measured, how sure they are, and how good. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from itertools import chain, combinations
from operator import itemgetter
from random import Random
from statistics import median

import numpy as np
import numpy.typing as npt

from autellix_sdk.errors import UsageError
from autellix_server.calibration.probes import Counts
from autellix_server.simulator.results import Interval, percentile

COEFFICIENTS = ("step_s", "prefill_token_s", "prefix_token_s", "decode_sequence_s", "kv_token_s", "request_s")
"""Of the engine model, but for the last: what a call takes beside its steps. In the order of `Counts`."""

_LEAST_INDEPENDENCE = 1e-4
"""Smallest over largest singular value of the equations below which coefficients cannot be told apart."""

_Matrix = npt.NDArray[np.float64]


@dataclass(slots=True)
class Sample:
    """One probe's equation, measured several times.

    Attributes:
        kind: ``prefill`` or ``decode``.
        name: of the probe.
        measured: counts and the seconds that they took, over 0, for each repetition; at least one.
    """

    kind: str
    name: str
    measured: list[tuple[Counts, float]] = field(default_factory=list)

    @property
    def typical(self) -> tuple[Counts, float]:
        """The repetition of median seconds; of two the faster one, because what disturbs takes time."""
        return sorted(self.measured, key=itemgetter(1))[(len(self.measured) - 1) // 2]

    @property
    def spread(self) -> float:
        """Seconds between the extremes of the repetitions, relative to the typical."""
        seconds = [seconds for _, seconds in self.measured]
        return (max(seconds) - min(seconds)) / self.typical[1]


@dataclass(frozen=True, slots=True)
class Quality:
    """How well the model explains the probes of one kind.

    Attributes:
        probes: how many.
        r2: share of the variance of their seconds that is explained; 1 is all of it.
        median_error, p90_error: of predicted against measured seconds, relative.
        spread: median over probes of the spread between repetitions, relative: what no model can explain.
    """

    probes: int
    r2: float
    median_error: float
    p90_error: float
    spread: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients and what they are worth.

    Attributes:
        estimates: seconds by name of `COEFFICIENTS`.
        intervals: their 95 % bootstrap intervals over probes.
        quality: by kind of probe.
        errors: predicted over measured seconds, less 1, by probe.
    """

    estimates: Mapping[str, float]
    intervals: Mapping[str, Interval]
    quality: Mapping[str, Quality]
    errors: Mapping[str, float]


def fit(samples: Sequence[Sample], random: Random, rounds: int = 200) -> Fit:
    """Fit the coefficients: least squares of relative errors, over typical repetitions.

    Args:
        samples: what was measured, of both kinds.
        random: drives the bootstrap.
        rounds: of the bootstrap.

    Raises:
        UsageError: the probes are too much alike to tell the coefficients apart.
    """
    counts = np.array([astuple(sample.typical[0]) for sample in samples], dtype=np.float64)
    seconds = np.array([sample.typical[1] for sample in samples])
    _check_independence(counts, seconds)
    estimates = least_squares(counts, seconds)
    kinds: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        kinds.setdefault(sample.kind, []).append(index)
    resampled = []
    for _ in range(rounds):
        # Within kinds: a draw without any prefill or any decode would say nothing.
        picks = list(chain.from_iterable(random.choices(indices, k=len(indices)) for indices in kinds.values()))
        resampled.append(least_squares(counts[picks], seconds[picks]))
    errors = counts @ estimates / seconds - 1
    return Fit(
        estimates=dict(zip(COEFFICIENTS, map(float, estimates), strict=True)),
        intervals={name: _interval([float(one[at]) for one in resampled]) for at, name in enumerate(COEFFICIENTS)},
        quality={kind: _quality([samples[at] for at in indices], errors[indices]) for kind, indices in kinds.items()},
        errors={sample.name: float(error) for sample, error in zip(samples, errors, strict=True)},
    )


def least_squares(counts: _Matrix, seconds: _Matrix) -> _Matrix:
    """Return the coefficients of 0 or more with the least squares of relative errors.

    With six coefficients every choice of those that are not 0 can be tried; the best that is feasible is the optimum.

    Args:
        counts: shape (probes, coefficients), of 0 or more.
        seconds: shape (probes,), over 0.
    """
    weighted = counts / seconds[:, None]
    # In units of their own columns: tokens and steps are orders of magnitude apart.
    units = np.maximum(np.linalg.norm(weighted, axis=0), np.finfo(np.float64).tiny)
    design, ones = weighted / units, np.ones(len(seconds))
    columns = range(design.shape[1])
    best, least = np.zeros(len(columns)), float(len(seconds))
    for chosen in chain.from_iterable(combinations(columns, size + 1) for size in columns):
        found = np.linalg.lstsq(design[:, chosen], ones, rcond=None)[0]
        rest = float(np.sum((design[:, chosen] @ found - ones) ** 2))
        if rest < least and np.all(found >= 0):
            best, least = np.zeros(len(columns)), rest
            best[list(chosen)] = found
    return np.asarray(best / units)


def _check_independence(counts: _Matrix, seconds: _Matrix) -> None:
    weighted = counts / seconds[:, None]
    norms = np.linalg.norm(weighted, axis=0)
    missing = [name for name, norm in zip(COEFFICIENTS, norms, strict=True) if not norm]
    if missing:
        raise UsageError(f"no probe says anything about {', '.join(missing)}: prefill and decode are both needed")
    values = np.linalg.svd(weighted / norms, compute_uv=False)
    if len(values) < len(COEFFICIENTS) or values[-1] < _LEAST_INDEPENDENCE * values[0]:
        raise UsageError(
            "the probes are too much alike to tell the coefficients apart: prompts of several lengths, batches of "
            "several sizes, and short and long contexts are needed; see --slots, --chunk-tokens, --context-tokens"
        )


def _interval(values: list[float]) -> Interval:
    values.sort()
    return Interval(percentile(values, 0.025), percentile(values, 0.975))


def _quality(samples: Sequence[Sample], errors: _Matrix) -> Quality:
    seconds = np.array([sample.typical[1] for sample in samples])
    total = float(np.sum((seconds - seconds.mean()) ** 2))
    sizes = sorted(map(abs, map(float, errors)))
    return Quality(
        probes=len(samples),
        r2=1 - float(np.sum((errors * seconds) ** 2)) / total if total else 1.0,
        median_error=percentile(sizes, 0.5),
        p90_error=percentile(sizes, 0.9),
        spread=median(sample.spread for sample in samples),
    )
