"""Metrics, logs, spans and timelines are told the same and say the same."""

from __future__ import annotations

import logging
import random

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from telemetry_records import arrived, context, ended, program

from autellix_sdk.bill import TimeSplit
from autellix_server.gateway.telemetry.events import CallRecord, Listeners, Outcome
from autellix_server.gateway.telemetry.logs import CallLog
from autellix_server.gateway.telemetry.metrics import Metrics
from autellix_server.gateway.telemetry.spans import Address, Spans
from autellix_server.gateway.telemetry.timeline import Timelines
from autellix_server.gateway.telemetry.trace_events import trace_events

PROGRAMS = [f"p{number}" for number in range(20)]


def calls(chance: random.Random) -> list[CallRecord]:
    """Return calls of all programs in order of arrival; one in four is never billed."""
    made = []
    for number in range(400):
        at_s = 10.0 + number / 10
        who = context(chance.choice(PROGRAMS), f"0.{number}")
        if chance.random() < 0.75:
            parts = [chance.randrange(10**6) for _ in range(5)]
            made.append(ended(at_s, who, TimeSplit({"admission": parts[0]}, *parts[1:])))
        else:
            call = arrived(at_s, who)
            call.end(Outcome.CLIENT_LEFT, at_s + chance.random())
            made.append(call)
    return made


def total(metrics: Metrics, name: str) -> float:
    """Return the sum of a metric over its labels."""
    name = f"autellix_gateway_{name}"
    samples = (sample for family in metrics.registry.collect() for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == name)


def test_four_views_of_the_same_calls(caplog: pytest.LogCaptureFixture) -> None:
    """As many calls, ended in the same way, with the same time in prefill and in all."""
    caplog.set_level(logging.INFO, "autellix_server")
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = Spans(provider.get_tracer("test"), Address("gate", 1), lambda: 100.0, lambda: 10**18)
    metrics, timelines = Metrics(), Timelines()
    listeners = Listeners([metrics, CallLog(), spans, timelines])
    made = calls(random.Random(7))
    for call in made:
        listeners.call_arrived(call)
    for call in made:
        listeners.call_ended(call)
    for name in PROGRAMS:
        listeners.program_ended(program(name))

    lines = [vars(record)["autellix_fields"] for record in caplog.records]
    of_calls = [span.attributes or {} for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    events = [event for name in PROGRAMS for event in trace_events(timelines.calls(context(name).program), 100.0, name)]
    drawn = [event for event in events if event.get("cat") == "call"]

    billed = sum(call.bill is not None for call in made)
    prefill_us = sum(call.bill.time.prefill_us for call in made if call.bill is not None)
    wall_s = sum(call.ended_s - call.arrived_s for call in made if call.ended_s is not None)
    assert total(metrics, "calls_total") == len(lines) == len(of_calls) == len(drawn) == 400
    for outcomes in (
        [line["outcome"] for line in lines],
        [attributes["autellix.outcome"] for attributes in of_calls],
        [event["args"]["outcome"] for event in drawn],
    ):
        assert [outcomes.count("ok"), outcomes.count("client_left")] == [billed, 400 - billed]
    assert total(metrics, "prefill_seconds_sum") * 1e6 == pytest.approx(prefill_us)
    assert sum(line["prefill_ms"] or 0 for line in lines) * 1e3 == pytest.approx(prefill_us)
    assert sum(int(str(attributes.get("autellix.prefill_us", 0))) for attributes in of_calls) == prefill_us
    assert sum(event["dur"] for event in events if event.get("name") == "prefill") == prefill_us
    assert total(metrics, "call_seconds_sum") == pytest.approx(wall_s)
    assert sum(event["dur"] for event in drawn) / 1e6 == pytest.approx(wall_s, abs=400e-6)
