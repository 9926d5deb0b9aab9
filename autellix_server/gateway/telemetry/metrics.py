"""Prometheus metrics of the gateway. No label is a client's words: tenants, models and engines are named by us.

Tenants have families of their own instead of one more label on those of engines and models, since the number of time
series is the product of the values of a family's labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from autellix_sdk.bill import CallBill
from autellix_server.gateway.telemetry.events import CallRecord, EngineChange, Listener, Note, PinMove, Refusal, Stage
from autellix_server.gateway.telemetry.labels import BoundedLabel, Cached
from autellix_server.scheduling.table import Program

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What `Metrics.expose` returns."""

CALL_BUCKETS_S = tuple(0.005 * 2**step for step in range(18))
"""From 5 ms, where an embedding is done, to 11 minutes; each twice the one before, so a quantile is right to 2."""

LAG_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

TOKEN_KINDS = ("prompt", "cached", "output", "recomputed", "swapped")
BREAKER_STATES = ("closed", "half_open", "open")

_PREFIX = "autellix_gateway_"
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class LabelLimits:
    """How many values a label takes; those that come later are counted as ``other``.

    Attributes:
        engines, models, tenants: values of the label of that name.
        reasons: reasons of refusals and of moved pins, paths, and causes of waiting, for each.
    """

    engines: int = 64
    models: int = 32
    tenants: int = 100
    reasons: int = 32


@dataclass(frozen=True, slots=True)
class EngineSample:
    """How an engine is at the moment of a scrape.

    Attributes:
        engine: its name.
        up: it is ready to serve.
        breaker: one of `BREAKER_STATES`.
        in_flight: calls sent to it and not ended.
        held: calls that the gateway keeps back for it.
        window: calls that it may have in flight, `None` when the gateway holds none back.
    """

    engine: str
    up: bool
    breaker: str
    in_flight: int
    held: int = 0
    window: int | None = None


@dataclass(frozen=True, slots=True)
class GatewaySample:
    """How the gateway is at the moment of a scrape.

    Attributes:
        programs: programs that live.
        store_healthy: the state store can be written; true also where there is none.
        engines: one for each engine of the fleet.
    """

    programs: int
    store_healthy: bool = True
    engines: Iterable[EngineSample] = ()


@dataclass(frozen=True, slots=True)
class _EngineSeries:
    """What is observed of the calls of one model on one engine; children of the families of `Metrics`."""

    call_s: Any
    prefill_s: Any
    decode_s: Any
    swap_s: Any
    tokens: tuple[Any, ...]
    preemptions: Any


@dataclass(frozen=True, slots=True)
class _TenantSeries:
    """What is counted of the work of one tenant; children of the families of `Metrics`."""

    service_s: Any
    prompt_tokens: Any
    output_tokens: Any


class Metrics(Listener):
    """Counts what it hears, in a registry of its own.

    Args:
        limits: of labels.
    """

    def __init__(self, limits: LabelLimits | None = None) -> None:
        disable_created_metrics()  # One more series for each counter, of which no query makes use.
        self.registry = CollectorRegistry()
        limits = limits or LabelLimits()
        self._engine, self._model = BoundedLabel(limits.engines), BoundedLabel(limits.models)
        self._tenant = BoundedLabel(limits.tenants)
        self._path, self._cause = BoundedLabel(limits.reasons), BoundedLabel(limits.reasons)
        self._refusal_reason, self._pin_reason = BoundedLabel(limits.reasons), BoundedLabel(limits.reasons)
        self._make_call_families()
        self._make_other_families()

    def _make_call_families(self) -> None:
        served = ("engine", "model")
        calls = self._counter("calls", "Calls that ended.", *served, "path", "outcome")
        tenant_calls = self._counter("tenant_calls", "Calls of a tenant that ended.", "tenant", "outcome")
        failures = self._counter("failed_attempts", "Times that an engine did not answer a call.", "engine")
        first_byte = self._histogram(
            "first_byte_seconds", "From arrival to the answer's first byte.", *served, "stream"
        )
        queued = self._histogram("queued_seconds", "Waiting of a call, as billed.", *served, "cause")
        self._calls, self._tenant_calls = Cached(calls.labels), Cached(tenant_calls.labels)
        self._failures, self._first_byte = Cached(failures.labels), Cached(first_byte.labels)
        self._queued = Cached(queued.labels)
        times = [
            self._histogram(name, help_text, *served)
            for name, help_text in (
                ("call_seconds", "From a call's arrival to its end."),
                ("prefill_seconds", "Steps that computed a call's prompt, as billed."),
                ("decode_seconds", "Steps that produced a call's output, as billed."),
                ("swap_seconds", "Moving a call's KV between device and host, as billed."),
            )
        ]
        tokens = self._counter("tokens", "Tokens of billed calls; cached ones are part of the prompt.", *served, "kind")
        preemptions = self._counter("preemptions", "Times that a call lost its place while it ran.", *served)

        def engine_series(engine: str, model: str) -> _EngineSeries:
            call_s, prefill_s, decode_s, swap_s = (family.labels(engine, model) for family in times)
            return _EngineSeries(
                call_s,
                prefill_s,
                decode_s,
                swap_s,
                tuple(tokens.labels(engine, model, kind) for kind in TOKEN_KINDS),
                preemptions.labels(engine, model),
            )

        self._engine_series = Cached(engine_series)
        service = self._counter("tenant_service_seconds", "Service that a tenant's calls attained.", "tenant")
        tenant_tokens = self._counter("tenant_tokens", "Tokens of a tenant's billed calls.", "tenant", "kind")

        def tenant_series(tenant: str) -> _TenantSeries:
            return _TenantSeries(
                service.labels(tenant), tenant_tokens.labels(tenant, "prompt"), tenant_tokens.labels(tenant, "output")
            )

        self._tenant_series = Cached(tenant_series)

    def _make_other_families(self) -> None:
        self._programs = self._gauge("programs", "Programs that live.")
        opened = self._counter("programs_opened", "Programs that were opened, calls without a program left out.")
        ended = self._counter("programs_ended", "Programs that ended, calls without a program left out.", "how")
        self._program_opened, self._program_ended = opened, Cached(ended.labels)
        self._up = self._gauge("engine_up", "1 while the engine is ready to serve.", "engine")
        self._breaker = self._gauge("engine_breaker", "1 for the state that the breaker is in.", "engine", "state")
        self._in_flight = self._gauge("engine_in_flight", "Calls sent to the engine and not ended.", "engine")
        self._held = self._gauge("engine_held", "Calls that the gateway keeps back for the engine.", "engine")
        self._window = self._gauge("engine_window", "Calls that the engine may have in flight.", "engine")
        self._scraped = self._gauge("engine_scraped", "1 when this answer has the engine's own metrics.", "engine")
        changes = self._counter("engine_changes", "Changes of an engine's state.", "engine", "state")
        pins = self._counter("pins_moved", "Programs whose calls went to another engine.", "reason")
        refusals = self._counter("refusals", "Requests refused before they were calls.", "reason")
        self._engine_changes, self._pins = Cached(changes.labels), Cached(pins.labels)
        self._refusals = Cached(refusals.labels)
        self._store_healthy = self._gauge("state_store_healthy", "1 while the state store can be written.")
        self._lag = Histogram(
            _PREFIX + "event_loop_lag_seconds",
            "How late the event loop came back to a timer.",
            registry=self.registry,
            buckets=LAG_BUCKETS_S,
        )

    def call_ended(self, call: CallRecord) -> None:
        """Count a call and what it was billed."""
        outcome = str(call.outcome)
        engine, model, tenant = self._engine(call.engine), self._model(call.model), self._tenant(call.tenant)
        self._calls(engine, model, self._path(call.path), outcome).inc()
        self._tenant_calls(tenant, outcome).inc()
        for moment in call.moments:
            if moment.stage is Stage.FIRST_BYTE:
                series = self._first_byte(engine, model, "yes" if call.streamed else "no")
                series.observe(moment.at_s - call.arrived_s)
            elif moment.stage is Stage.FAILED:
                self._failures(self._engine(moment.engine)).inc()
        if call.ended_s is not None:
            self._engine_series(engine, model).call_s.observe(call.ended_s - call.arrived_s)
        if call.bill is not None:
            self._count_bill(call.bill, engine, model, tenant)

    def _count_bill(self, bill: CallBill, engine: str, model: str, tenant: str) -> None:
        series, time = self._engine_series(engine, model), bill.time
        for cause, queued_us in time.queued_us.items():
            self._queued(engine, model, self._cause(cause)).observe(queued_us / _US)
        series.prefill_s.observe(time.prefill_us / _US)
        series.decode_s.observe(time.decode_us / _US)
        series.swap_s.observe(time.swap_us / _US)
        counts = (
            bill.prompt_tokens,
            bill.cached_tokens,
            bill.output_tokens,
            bill.recomputed_tokens,
            bill.swapped_tokens,
        )
        for counter, count in zip(series.tokens, counts, strict=True):
            if count:
                counter.inc(count)
        if bill.preemptions:
            series.preemptions.inc(bill.preemptions)
        share = self._tenant_series(tenant)
        share.service_s.inc(bill.service_us / _US)
        share.prompt_tokens.inc(bill.prompt_tokens)
        share.output_tokens.inc(bill.output_tokens)

    def program_opened(self, program: Program) -> None:
        """Count a program."""
        if not program.single_call:
            self._program_opened.inc()

    def program_ended(self, program: Program) -> None:
        """Count a program and how it ended."""
        if not program.single_call:
            self._program_ended("announced" if program.ending else "lease").inc()

    def engine_changed(self, change: EngineChange) -> None:
        """Count a change of state; how the engine is now comes with the sample."""
        self._engine_changes(self._engine(change.engine), change.state).inc()

    def noted(self, note: Note) -> None:
        """Count refusals and moved pins; whether the store is well comes with the sample."""
        if isinstance(note, Refusal):
            self._refusals(self._refusal_reason(note.reason)).inc()
        elif isinstance(note, PinMove):
            self._pins(self._pin_reason(note.reason)).inc()

    def lagged(self, lag_s: float) -> None:
        """Observe how late the event loop came back to a timer; for `lag.watch_lag`."""
        self._lag.observe(lag_s)

    def scraped(self, found: Iterable[tuple[str, bool]]) -> None:
        """Take which engines gave their own metrics for this answer."""
        self._scraped.clear()
        for engine, answered in found:
            self._scraped.labels(self._engine(engine)).set(answered)

    def take(self, sample: GatewaySample) -> None:
        """Take how the gateway is now, before `expose`."""
        self._programs.set(sample.programs)
        self._store_healthy.set(sample.store_healthy)
        for family in (self._up, self._breaker, self._in_flight, self._held, self._window):
            family.clear()  # engines that left the fleet are not shown any more
        for engine in sample.engines:
            name = self._engine(engine.engine)
            self._up.labels(name).set(engine.up)
            self._in_flight.labels(name).set(engine.in_flight)
            self._held.labels(name).set(engine.held)
            for state in BREAKER_STATES:
                self._breaker.labels(name, state).set(engine.breaker == state)
            if engine.window is not None:
                self._window.labels(name).set(engine.window)

    def expose(self) -> str:
        """Return the metrics in the Prometheus text format, see `CONTENT_TYPE`. May be called in another thread."""
        text: bytes = generate_latest(self.registry)
        return text.decode()

    def _counter(self, name: str, help_text: str, *labels: str) -> Any:
        return Counter(_PREFIX + name, help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Any:
        return Gauge(_PREFIX + name, help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, *labels: str) -> Any:
        return Histogram(_PREFIX + name, help_text, labels, registry=self.registry, buckets=CALL_BUCKETS_S)
