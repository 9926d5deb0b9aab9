"""The fit: known coefficients come back from noisy seconds, and hopeless equations are refused."""

from __future__ import annotations

from dataclasses import astuple
from random import Random

import numpy as np
import pytest

from autellix_sdk.errors import UsageError
from autellix_server.calibration.fit import COEFFICIENTS, Fit, Sample, fit, least_squares
from autellix_server.calibration.probes import Counts, Limits, Probe, plan_probes

TRUTH = {
    "step_s": 0.0103,
    "prefill_token_s": 9.4e-5,
    "prefix_token_s": 2e-7,
    "decode_sequence_s": 4e-5,
    "kv_token_s": 8e-8,
    "request_s": 0.004,
}
LIMITS = Limits(slots=64, kv_tokens=400_000, chunk_tokens=2048, context_tokens=32_768)


def counts(probe: Probe) -> Counts:
    """Return what a probe counts when the cache works and nothing is lost."""
    if probe.kind == "decode":
        kv_tokens = probe.calls * (probe.prompt_tokens + probe.output_tokens / 2)
        return Counts(1, 0, 0, probe.calls, kv_tokens, 0)
    begins = range(probe.expected_cached, probe.prompt_tokens, LIMITS.chunk_tokens)
    return Counts(len(begins), probe.prompt_tokens - probe.expected_cached, sum(begins), 0, 0, 1)


def measured(noise: float, repetitions: int = 3, seed: int = 0) -> list[Sample]:
    """Return what the probes of a full plan would measure, each repetition up to `noise` off."""
    random = Random(seed)
    samples = []
    for probe in plan_probes(LIMITS, quick=False):
        exact_s = float(np.dot(astuple(counts(probe)), list(TRUTH.values())))
        repeated = [(counts(probe), exact_s * random.uniform(1 - noise, 1 + noise)) for _ in range(repetitions)]
        samples.append(Sample(probe.kind, probe.name, repeated))
    return samples


def fitted(samples: list[Sample]) -> Fit:
    """Fit with a seed."""
    return fit(samples, Random(0))


def test_exact_seconds_give_exact_coefficients() -> None:
    """Orders of magnitude between them do no harm."""
    found = fitted(measured(noise=0))
    assert found.estimates == pytest.approx(TRUTH, rel=1e-6)
    assert max(map(abs, found.errors.values())) < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_averaged_out_and_its_effect_is_told(seed: int) -> None:
    """Within a few per cent for what decides a step, and the intervals are about as wide as the error."""
    found = fitted(measured(noise=0.03, seed=seed))
    for name in ("step_s", "prefill_token_s", "kv_token_s"):
        assert found.estimates[name] == pytest.approx(TRUTH[name], rel=0.06)
        interval = found.intervals[name]
        assert interval.high - interval.low < 0.25 * TRUTH[name]
    assert found.quality["decode"].median_error < 0.03
    assert 0 < found.quality["decode"].spread < 0.06


def test_a_single_disturbed_repetition_changes_nothing() -> None:
    """The typical one counts."""
    samples = measured(noise=0)
    for sample in samples:
        sample.measured[1] = (sample.measured[1][0], 10 * sample.measured[1][1])
    assert fitted(samples).estimates == pytest.approx(TRUTH, rel=1e-6)


def test_of_two_repetitions_the_faster_is_typical() -> None:
    """Disturbances take time, they never save it."""
    one = Counts(1, 0, 0, 1, 32, 0)
    assert Sample("decode", "two", [(one, 3.0), (one, 2.0)]).typical == (one, 2.0)


def test_coefficients_are_never_negative() -> None:
    """What would be below 0 is 0, and the others are the best that then are."""
    design = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    found = least_squares(design, np.array([3.0, 2.0, 1.5]))
    assert found[1] == 0
    # The least squares of relative errors of a constant c is that of c / seconds against 1.
    inverse = 1 / np.array([3.0, 2.0, 1.5])
    assert found[0] == pytest.approx(inverse.sum() / (inverse**2).sum())


def test_the_same_seed_gives_the_same_intervals() -> None:
    """The bootstrap is driven by the caller."""
    samples = measured(noise=0.05)
    assert fitted(samples).intervals == fitted(samples).intervals != fit(samples, Random(1)).intervals


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("prefill", "no probe says anything about decode_sequence_s"),
        ("decode", "no probe says anything about prefill_token_s, prefix_token_s, request_s"),
        ("context 32", "no probe says anything about prefill_token_s"),
    ],
)
def test_half_the_probes_are_not_enough(kept: str, said: str) -> None:
    """The message says which coefficient is in none of them."""
    with pytest.raises(UsageError, match=said):
        fitted([sample for sample in measured(noise=0) if kept in sample.name])


def test_probes_that_are_too_much_alike_are_refused() -> None:
    """Batches of one size cannot tell the cost of a step from that of a call in it."""
    samples = [sample for sample in measured(noise=0) if sample.kind == "prefill" or ", 4 calls" in sample.name]
    one_chunk = [sample for sample in samples if "4096" not in sample.name]
    with pytest.raises(UsageError, match="too much alike to tell the coefficients apart"):
        fitted(one_chunk)


def test_every_coefficient_has_its_place_in_the_counts() -> None:
    """They are multiplied in this order."""
    assert len(COEFFICIENTS) == len(astuple(Counts(0, 0, 0, 0, 0, 0)))
    assert tuple(TRUTH) == COEFFICIENTS
