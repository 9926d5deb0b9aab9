"""What the gateway counts, with which labels, and at what cost in series."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families
from telemetry_records import arrived, context, ended, program

from autellix_server.gateway.telemetry.events import EngineChange, Outcome, PinMove, Refusal, Stage, StoreChange
from autellix_server.gateway.telemetry.labels import BoundedLabel
from autellix_server.gateway.telemetry.lag import PERIOD_S, watch_lag
from autellix_server.gateway.telemetry.metrics import EngineSample, GatewaySample, LabelLimits, Metrics

SAMPLE = GatewaySample(3, True, [EngineSample("e0", True, "half_open", 4, held=2, window=8)])


def shown(metrics: Metrics, sample: GatewaySample = SAMPLE) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample of the exposition."""
    metrics.take(sample)
    families = text_string_to_metric_families(metrics.expose())
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Return one sample; `KeyError` when it is not there."""
    return shown(metrics)[f"autellix_gateway_{name}", frozenset(labels.items())]


def test_a_call_is_counted_by_what_was_measured_of_it() -> None:
    """Outcome, times from the gateway's moments, parts and tokens from the bill, and the tenant's share."""
    metrics = Metrics()
    metrics.call_ended(ended())
    served = {"engine": "e0", "model": "tiny"}
    assert value(metrics, "calls_total", **served, path="/v1/chat/completions", outcome="ok") == 1
    assert value(metrics, "tenant_calls_total", tenant="acme", outcome="ok") == 1
    assert value(metrics, "call_seconds_sum", **served) == 1.0
    assert value(metrics, "first_byte_seconds_sum", **served, stream="yes") == 0.5
    assert value(metrics, "queued_seconds_sum", **served, cause="admission") == 0.1
    assert value(metrics, "queued_seconds_sum", **served, cause="batch") == 0.05
    assert value(metrics, "prefill_seconds_sum", **served) == 0.2
    assert value(metrics, "decode_seconds_sum", **served) == 0.5
    assert value(metrics, "swap_seconds_count", **served) == 1
    tokens = {"prompt": 30, "cached": 20, "output": 5, "recomputed": 0, "swapped": 0}
    assert {kind: value(metrics, "tokens_total", **served, kind=kind) for kind in tokens} == tokens
    assert value(metrics, "tenant_service_seconds_total", tenant="acme") == 0.7
    assert value(metrics, "tenant_tokens_total", tenant="acme", kind="output") == 5


def test_a_call_that_was_never_billed_has_an_outcome_and_a_length() -> None:
    """Its engine failed it, which is counted for that engine."""
    metrics, call = Metrics(), arrived(streamed=False)
    call.note(Stage.SENT, 10.1, "e0")
    call.note(Stage.FAILED, 10.2, "e0", "connection")
    call.note(Stage.SENT, 10.3, "e1")
    call.end(Outcome.CLIENT_LEFT, 12.0)
    metrics.call_ended(call)
    served = {"engine": "e1", "model": "tiny"}
    assert value(metrics, "calls_total", **served, path="/v1/chat/completions", outcome="client_left") == 1
    assert value(metrics, "failed_attempts_total", engine="e0") == 1
    assert value(metrics, "call_seconds_sum", **served) == 2.0
    assert value(metrics, "decode_seconds_count", **served) == 0


def test_programs_engines_pins_and_refusals() -> None:
    """Anonymous calls are no programs; what is now comes with the sample."""
    metrics = Metrics()
    metrics.program_opened(program())
    metrics.program_opened(program("q", single_call=True))
    metrics.program_ended(program(ending=True))
    metrics.program_ended(program())
    metrics.program_ended(program("q", single_call=True))
    metrics.engine_changed(EngineChange("e0", "ready", "closed"))
    metrics.noted(Refusal("rate_limited", "acme"))
    metrics.noted(PinMove("overload", "e0", "e1"))
    metrics.noted(StoreChange(healthy=False))
    metrics.scraped([("e0", True), ("e1", False)])
    metrics.lagged(0.004)
    assert (value(metrics, "programs"), value(metrics, "programs_opened_total")) == (3, 1)
    assert [value(metrics, "programs_ended_total", how=how) for how in ("announced", "lease")] == [1, 1]
    assert [value(metrics, f"engine_{what}", engine="e0") for what in ("up", "in_flight", "held", "window")] == [
        1,
        4,
        2,
        8,
    ]
    states = ("closed", "half_open", "open")
    assert [value(metrics, "engine_breaker", engine="e0", state=state) for state in states] == [0, 1, 0]
    assert value(metrics, "engine_changes_total", engine="e0", state="ready") == 1
    assert value(metrics, "pins_moved_total", reason="overload") == 1
    assert value(metrics, "refusals_total", reason="rate_limited") == 1
    assert [value(metrics, "engine_scraped", engine=engine) for engine in ("e0", "e1")] == [1, 0]
    assert value(metrics, "state_store_healthy") == 1
    assert value(metrics, "event_loop_lag_seconds_bucket", le="0.005") == 1


def test_an_engine_that_left_is_not_shown() -> None:
    """Its gauges go with it; what it did is still counted."""
    metrics = Metrics()
    metrics.call_ended(ended())
    assert value(metrics, "engine_up", engine="e0") == 1
    names = {name for name, _ in shown(metrics, GatewaySample(0, store_healthy=False))}
    assert "autellix_gateway_engine_up" not in names
    assert "autellix_gateway_calls_total" in names


def test_series_are_bounded_whatever_comes() -> None:
    """A thousand tenants, models and engines make no more series than the limits allow; nothing is lost."""
    metrics = Metrics(LabelLimits(engines=2, models=2, tenants=2, reasons=2))
    counts = []
    for number in range(1000):
        call = arrived(tenant=f"t{number}", model=f"m{number}", path=f"/v1/{number}")
        call.note(Stage.SENT, 10.0, f"e{number}")
        call.end(Outcome.OK, 11.0)
        metrics.call_ended(call)
        metrics.noted(Refusal(f"reason {number}"))
        counts.append(len(metrics.expose().splitlines()) if number in (10, 999) else 0)
    assert counts[10] == counts[999] < 400
    assert value(metrics, "tenant_calls_total", tenant="other", outcome="ok") == 998


def test_no_label_is_a_program_or_a_clients_word() -> None:
    """Wherever the client puts it."""
    metrics, secret = Metrics(), "p-0123456789"
    metrics.call_ended(ended(who=context(secret, name=secret, salt="0123456"), traceparent=secret))
    metrics.program_opened(program(secret))
    metrics.program_ended(program(secret))
    assert "0123456" not in metrics.expose()


def test_a_bounded_label_keeps_what_came_first() -> None:
    """Later values are one value."""
    label = BoundedLabel(2)
    assert [label(text) for text in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]


async def test_lag_is_what_a_timer_is_late() -> None:
    """A clock that goes back or comes early is no lag."""
    times = iter([0.0, PERIOD_S + 0.1, 5.0, 5.0 + PERIOD_S - 0.01, 9.0])
    lags: list[float] = []

    async def sleep(_: float) -> None:
        if len(lags) == 2:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await watch_lag(lags.append, lambda: next(times), sleep)
    assert lags == [pytest.approx(0.1), 0.0]
