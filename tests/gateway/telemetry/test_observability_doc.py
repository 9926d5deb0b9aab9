"""The page on observability names every metric, attribute and key that there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from telemetry_records import ended, program

from autellix_server.gateway.telemetry import logs
from autellix_server.gateway.telemetry.events import Outcome
from autellix_server.gateway.telemetry.metrics import Metrics
from autellix_server.gateway.telemetry.spans import Address, Spans

PAGE = (Path(__file__).parents[3] / "docs" / "observability.md").read_text()
_CAUSE = re.compile(r"autellix\.queued\.\w+_us")


def test_metrics_are_on_the_page() -> None:
    """By the names that a scrape shows."""
    families = {family.name + ("_total" if family.type == "counter" else "") for family in Metrics().registry.collect()}
    assert set(re.findall(r"`(autellix_gateway_\w+)`", PAGE)) == families


def test_attributes_of_spans_are_on_the_page() -> None:
    """Those of calls that went well and of one that did not, of a program, and the events."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = Spans(provider.get_tracer("test"), Address("gate", 1), lambda: 10.0, lambda: 10**18)
    failed = ended()
    failed.outcome = Outcome.FAILED
    for call in (ended(), failed):
        spans.call_arrived(call)
        spans.call_ended(call)
    row = program()
    row.ended_s = 12.0
    spans.program_ended(row)
    shown = {"autellix.failed", "gen_ai.workflow.name"}
    for span in exporter.get_finished_spans():
        shown |= {_CAUSE.sub("autellix.queued.CAUSE_us", name) for name in span.attributes or {}}
        shown |= {event.name for event in span.events}
    documented = set(re.findall(r"`((?:autellix|gen_ai|server|error)\.[\w.]+)`", PAGE))
    assert documented == shown


def test_keys_of_a_calls_line_are_on_the_page() -> None:
    """All of them."""
    section = PAGE[PAGE.index("## Logs") : PAGE.index("## Spans")]
    assert set(logs._call_fields(ended())) <= set(re.findall(r"`(\w+)`", section))
