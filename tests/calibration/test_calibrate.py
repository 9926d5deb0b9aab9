"""A calibration against a server whose engine model is known, in virtual time."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from virtual_server import ModelServer, noise, run_virtually

from autellix_sdk.errors import ConfigurationError, UsageError
from autellix_server.calibration.probes import Limits
from autellix_server.calibration.run import Calibration, CalibrationSettings, calibrate
from autellix_server.engine.progress import PlainProgress
from autellix_server.simulator.model import EngineModel

TRUTH = EngineModel(
    step_s=0.02,
    prefill_token_s=4e-4,
    prefix_token_s=2e-5,
    decode_sequence_s=1.5e-3,
    kv_token_s=6e-6,
    slots=8,
    kv_tokens=4096,
    chunk_tokens=64,
    host_tokens=0,
    kv_bytes_per_token=1000,
    link_bytes_per_s=1e9,
    source="made up",
)
SETTINGS = CalibrationSettings(
    Limits(TRUTH.slots, TRUTH.kv_tokens, TRUTH.chunk_tokens, context_tokens=2048),
    TRUTH.host_tokens,
    TRUTH.kv_bytes_per_token,
    TRUTH.link_bytes_per_s,
    quick=True,
    salt="s",
)


def calibrated(server: ModelServer, settings: CalibrationSettings = SETTINGS) -> Calibration:
    """Calibrate against `server`."""
    return run_virtually(calibrate(server, settings, "tiny", PlainProgress(io.StringIO())))


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("says_cached", [True, False])
def test_the_coefficients_of_an_exact_engine_are_found(quick: bool, says_cached: bool) -> None:
    """Also where the server does not say what it had cached; and programs fare alike on both."""
    found = calibrated(ModelServer(TRUTH, 0.005, says_cached=says_cached), replace(SETTINGS, quick=quick))
    for name in ("step_s", "prefill_token_s", "prefix_token_s", "decode_sequence_s", "kv_token_s"):
        assert getattr(found.model, name) == pytest.approx(getattr(TRUTH, name), rel=0.02)
        interval = found.fit.intervals[name]
        assert interval.low <= found.fit.estimates[name] <= interval.high * (1 + 1e-9)
    assert found.fit.estimates["request_s"] == pytest.approx(0.005, rel=0.1)
    assert all(quality.r2 > 0.999 and quality.p90_error < 0.01 for quality in found.fit.quality.values())
    assert found.validation.makespan_ratio == pytest.approx(1, abs=0.1)
    assert found.validation.token_latency_ratio == pytest.approx(1, abs=0.15)
    assert found.warnings == []


def test_noise_moves_the_coefficients_by_less_than_itself() -> None:
    """Steps that take up to 10 % longer move estimates by that at most, and are no reason for a warning."""
    found = calibrated(ModelServer(TRUTH, disturb=noise(0.10)), replace(SETTINGS, quick=False))
    for name in ("step_s", "prefill_token_s", "prefix_token_s", "decode_sequence_s", "kv_token_s"):
        assert getattr(found.model, name) == pytest.approx(1.05 * getattr(TRUTH, name), rel=0.10)
    assert found.warnings == []


def test_what_is_given_is_taken_over() -> None:
    """Capacity and link are not measured; the source says what was."""
    model = calibrated(ModelServer(TRUTH)).model
    unmeasured = ("slots", "kv_tokens", "chunk_tokens", "host_tokens", "kv_bytes_per_token", "link_bytes_per_s")
    assert all(getattr(model, name) == getattr(TRUTH, name) for name in unmeasured)
    assert model.source.startswith("measured on tiny; median error 0.0 % of prefill, 0.0 % of decode")


def test_a_machine_that_others_use_is_reported() -> None:
    """Repetitions that differ say so."""
    warnings = calibrated(ModelServer(TRUTH, disturb=noise(3.0))).warnings
    assert any("prefill: repetitions differ by" in warning for warning in warnings)


def test_an_engine_of_another_shape_is_reported() -> None:
    """Here a step costs four times as much beyond 40 ms."""
    warnings = calibrated(ModelServer(TRUTH, disturb=lambda step_s: step_s if step_s < 0.04 else 4 * step_s)).warnings
    assert any("the model misses by" in warning for warning in warnings)


def test_the_report_is_json() -> None:
    """It goes into the model's file."""
    report = calibrated(ModelServer(TRUTH)).report()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report["intervals"]) == set(report["estimates"])
    assert report["validation"]["programs"] == SETTINGS.programs


def test_wrong_slots_are_found_out() -> None:
    """Calls that should decode side by side never do when the server has fewer slots."""
    with pytest.raises(UsageError, match=r"they never ran side by side; is --slots 8 right\?"):
        calibrated(ModelServer(replace(TRUTH, slots=2)))


@pytest.mark.parametrize(
    ("limits", "kind", "said"),
    [
        (Limits(1, 4096, 64, 2048), UsageError, "an engine of one slot cannot be calibrated"),
        (Limits(8, 64, 64, 2048), ConfigurationError, "kv_tokens of the engine model is 64: too few"),
        (Limits(8, 100, 64, 2048), ConfigurationError, "an engine of this model holds 1 to 28"),
    ],
)
def test_hopeless_limits_are_refused_before_anything_is_sent(limits: Limits, kind: type[Exception], said: str) -> None:
    """Minutes of measuring would be lost."""
    server = ModelServer(TRUTH)
    with pytest.raises(kind, match=said):
        calibrated(server, replace(SETTINGS, limits=limits))
    assert server.calls == 0
