"""A calibration from beginning to end: measure, fit, prove, and say how far the result can be trusted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from autellix_sdk.errors import UsageError
from autellix_server.calibration.client import Answer, Client
from autellix_server.calibration.fit import COEFFICIENTS, Fit, Quality, Sample, fit
from autellix_server.calibration.probes import Limits, Probe, plan_probes, read_answers
from autellix_server.calibration.validation import Validation, check_model, validate
from autellix_server.engine.progress import Progress
from autellix_server.simulator.model import EngineModel

_LEAST_STEP_S = 1e-6
"""The model's step must cost something; an engine that fits best without is taken for one of this cost."""

_NOISY = 0.15
_POOR_MEDIAN_ERROR = 0.10
_POOR_P90_ERROR = 0.30
_POOR_RATIO = 1.25
_BUSY = 0.5


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """What is calibrated, and how thoroughly.

    Attributes:
        limits: of the server.
        host_tokens, kv_bytes_per_token, link_bytes_per_s: of `EngineModel`; taken over, not measured.
        quick: a third of the time, for a first look.
        salt: no two runs against one server may have the same, or they find each other's prompts in its cache.
        seed: of the bootstrap.
    """

    limits: Limits
    host_tokens: int
    kv_bytes_per_token: int
    link_bytes_per_s: float
    quick: bool
    salt: str
    seed: int = 0

    @property
    def rounds(self) -> int:
        """How often each probe is sent."""
        return 2 if self.quick else 3

    @property
    def programs(self) -> int:
        """How many programs the proof runs."""
        return 6 if self.quick else 16

    def model(self, estimates: dict[str, float], source: str) -> EngineModel:
        """Return the engine model with the coefficients given; the rest is of these settings.

        Raises:
            ConfigurationError: a value is out of range.
        """
        return EngineModel(
            **estimates,
            slots=self.limits.slots,
            kv_tokens=self.limits.kv_tokens,
            chunk_tokens=self.limits.chunk_tokens,
            host_tokens=self.host_tokens,
            kv_bytes_per_token=self.kv_bytes_per_token,
            link_bytes_per_s=self.link_bytes_per_s,
            source=source,
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """The result.

    Attributes:
        model: the engine model.
        fit: its coefficients in detail.
        validation: how it did on programs.
        client_busy: largest share of a core that sending and reading took during a probe: what the client needs
            itself may pass for the server's.
    """

    model: EngineModel
    fit: Fit
    validation: Validation
    client_busy: float

    @property
    def warnings(self) -> list[str]:
        """Why not to trust it, in sentences; empty when there is no reason."""
        return list(_warnings(self))

    def report(self) -> dict[str, Any]:
        """Return all but the model as JSON values."""
        ratios = {
            "token_latency_ratio": self.validation.token_latency_ratio,
            "makespan_ratio": self.validation.makespan_ratio,
        }
        return {
            **asdict(self.fit),
            "validation": asdict(self.validation) | ratios,
            "client_busy": self.client_busy,
            "warnings": self.warnings,
        }


async def calibrate(client: Client, settings: CalibrationSettings, name: str, progress: Progress) -> Calibration:
    """Measure a server that nobody else uses, and return its model.

    Args:
        client: the server.
        settings: what is known of it.
        name: what the model's source calls it.
        progress: told of every probe.

    Raises:
        UsageError: the limits leave nothing to tell coefficients by, or are not the server's.
        ConfigurationError: the limits make no engine model that can be simulated.
        EngineFailure: the server does not answer, or not as it should.
    """
    if settings.limits.slots < 2:
        raise UsageError("an engine of one slot cannot be calibrated: the cost of a step and of a call in it are one")
    proof_salt = f"{settings.salt}/validation"
    # What cannot be simulated is found before minutes of measuring, not after.
    unmeasured = settings.model(dict.fromkeys(_OF_THE_MODEL, 1.0), name)
    check_model(unmeasured, settings.limits, settings.programs, proof_salt)
    samples, client_busy = await measure(client, settings, progress)
    progress.stage("fitting")
    fitted = fit(samples, Random(settings.seed))
    estimates = {coefficient: fitted.estimates[coefficient] for coefficient in _OF_THE_MODEL}
    estimates["step_s"] = max(_LEAST_STEP_S, estimates["step_s"])
    errors = ", ".join(f"{100 * quality.median_error:.1f} % of {kind}" for kind, quality in fitted.quality.items())
    model = settings.model(estimates, f"measured on {name}; median error {errors}")
    progress.stage(f"running {settings.programs} programs on the server and on its model")
    validation = await validate(client, model, settings.limits, settings.programs, proof_salt)
    return Calibration(model, fitted, validation, client_busy)


_OF_THE_MODEL = COEFFICIENTS[:-1]


async def measure(client: Client, settings: CalibrationSettings, progress: Progress) -> tuple[list[Sample], float]:
    """Send every probe once a round, so that what changes with time hits all alike.

    Returns:
        The samples, and the largest share of a core that this process used during one of them.

    Raises:
        UsageError: a batch never decoded together.
        EngineFailure: see `Client`.
    """
    probes = plan_probes(settings.limits, quick=settings.quick)
    samples = [Sample(probe.kind, probe.name) for probe in probes]
    progress.stage("warming up")
    await _send(client, Probe("decode", 2, 0, 32, 8), f"{settings.salt}/warm-up")
    progress.stage(f"measuring: {len(probes)} probes, {settings.rounds} rounds", settings.rounds * len(probes))
    loop, busy = asyncio.get_running_loop(), 0.0
    for number in range(settings.rounds):
        for probe, sample in zip(probes, samples, strict=True):
            progress.step(probe.name)
            began_s, used_s = loop.time(), time.process_time()
            answers = await _send(client, probe, f"{settings.salt}/{number}")
            busy = max(busy, (time.process_time() - used_s) / (loop.time() - began_s))
            measured = read_answers(probe, answers, settings.limits.chunk_tokens)
            if measured is not None:
                sample.measured.append(measured)
    for sample in samples:
        if not sample.measured:
            raise UsageError(f"{sample.name}: they never ran side by side; is --slots {settings.limits.slots} right?")
    return samples, busy


async def _send(client: Client, probe: Probe, salt: str) -> list[Answer]:
    return await asyncio.gather(*(client.complete(prompt, probe.output_tokens) for prompt in probe.prompts(salt)))


def _warnings(found: Calibration) -> Iterator[str]:
    if found.fit.estimates["step_s"] < _LEAST_STEP_S:
        yield "a step by itself seems to cost nothing; the model takes 1 us"
    for kind, quality in found.fit.quality.items():
        yield from _quality_warnings(kind, quality)
    if found.client_busy > _BUSY:
        yield f"this client used {100 * found.client_busy:.0f} % of a core: part of what batches cost may be its own"
    ratios = {"token latency": found.validation.token_latency_ratio, "makespan": found.validation.makespan_ratio}
    for what, ratio in ratios.items():
        if not 1 / _POOR_RATIO < ratio < _POOR_RATIO:
            yield f"{what} of programs is {ratio:.2f} times the server's in simulation; do not rely on absolute times"


def _quality_warnings(kind: str, quality: Quality) -> Iterator[str]:
    if quality.spread > _NOISY:
        yield (
            f"{kind}: repetitions differ by {100 * quality.spread:.0f} %; is anything else running on the machine? "
            "Calibrate again when it is quiet"
        )
    if quality.median_error > _POOR_MEDIAN_ERROR or quality.p90_error > _POOR_P90_ERROR:
        yield (
            f"{kind}: the model misses by {100 * quality.median_error:.0f} % in the median and "
            f"{100 * quality.p90_error:.0f} % in the worst tenth; its shape may not be this engine's"
        )
