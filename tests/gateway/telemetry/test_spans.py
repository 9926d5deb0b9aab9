"""Spans of calls and programs: whose children they are, what they say, and how long they last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.trace import SpanKind, StatusCode
from telemetry_records import arrived, bill, context, ended, program

from autellix_server.gateway.telemetry import spans as module
from autellix_server.gateway.telemetry.events import CallRecord, Outcome, Stage
from autellix_server.gateway.telemetry.spans import Address, Spans

EPOCH_NS = 1_700_000_000_000_000_000
CLIENT = "00-{trace:032x}-{span:016x}-{flags:02x}"


def client(trace: int, span: int, flags: int = 1) -> str:
    """Return a client's trace context."""
    return CLIENT.format(trace=trace, span=span, flags=flags)


@dataclass
class Bench:
    """Spans, and what they exported.

    Attributes:
        now_s: the ledger's clock; the wall clock is `step_s` ahead of `EPOCH_NS` plus it.
    """

    now_s: float = 10.0
    step_s: float = 0.0
    sampler: sampling.Sampler = sampling.DEFAULT_ON
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)

    def __post_init__(self) -> None:
        """Connect the spans to the exporter."""
        self.provider = TracerProvider(sampler=self.sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        tracer = self.provider.get_tracer("test")
        self.spans = Spans(tracer, Address("gate", 8700), lambda: self.now_s, self.wall_ns)

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970."""
        return EPOCH_NS + round((self.now_s + self.step_s) * 1e9)

    def run(self, call: CallRecord) -> ReadableSpan:
        """Let a call arrive and end, and return its span."""
        self.spans.call_arrived(call)
        self.spans.call_ended(call)
        return self.finished()[-1]

    def finished(self) -> Sequence[ReadableSpan]:
        """Return what was exported."""
        return self.exporter.get_finished_spans()


@pytest.fixture
def bench() -> Bench:
    """Spans with a fresh exporter."""
    return Bench()


def ids(span: ReadableSpan) -> tuple[int, int]:
    """Return trace and span ID."""
    where = span.get_span_context()
    assert where is not None
    return where.trace_id, where.span_id


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    """Return trace and span ID of the parent."""
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def links(span: ReadableSpan) -> list[tuple[int, int]]:
    """Return trace and span IDs of the links."""
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def test_a_call_is_a_child_of_its_program(bench: Bench) -> None:
    """Two calls, one program, one trace; the program's span lasts until its end and sums up."""
    first, second = bench.run(ended(10.0)), bench.run(ended(12.0, context(call="0.1")))
    row = program(ending=True)
    row.ended_s, row.completed, row.output_tokens = 15.0, 2, 10
    bench.spans.program_ended(row)
    whole = bench.finished()[-1]
    assert parent(first) == parent(second) == ids(whole)
    assert (parent(whole), links(first), links(whole)) == (None, [], [])
    assert (whole.name, first.name) == ("invoke_workflow", "chat tiny")
    assert (first.kind, whole.kind) == (SpanKind.SERVER, SpanKind.INTERNAL)
    assert (whole.start_time, whole.end_time) == (EPOCH_NS + 10 * 10**9, EPOCH_NS + 15 * 10**9)
    assert (first.start_time, first.end_time) == (EPOCH_NS + 10 * 10**9, EPOCH_NS + 11 * 10**9)
    assert whole.attributes is not None
    shown = {"autellix.calls": 2, "gen_ai.usage.output_tokens": 10, "autellix.program.ended_by": "message"}
    assert shown.items() <= whole.attributes.items()


def test_attributes_are_those_of_the_conventions(bench: Bench) -> None:
    """Names as the installed package has them; parts of the bill; moments as events at their time."""
    span = bench.run(ended())
    conventions = {
        gen_ai_attributes.GEN_AI_OPERATION_NAME: "chat",
        gen_ai_attributes.GEN_AI_PROVIDER_NAME: "autellix",
        gen_ai_attributes.GEN_AI_REQUEST_MODEL: "tiny",
        gen_ai_attributes.GEN_AI_REQUEST_STREAM: True,
        gen_ai_attributes.GEN_AI_CONVERSATION_ID: "p1",
        gen_ai_attributes.GEN_AI_USAGE_INPUT_TOKENS: 30,
        gen_ai_attributes.GEN_AI_USAGE_OUTPUT_TOKENS: 5,
        gen_ai_attributes.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: 20,
        gen_ai_attributes.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: 0.5,
        server_attributes.SERVER_ADDRESS: "gate",
        server_attributes.SERVER_PORT: 8700,
    }
    bill_parts = {
        "autellix.queued.admission_us": 100_000,
        "autellix.queued.batch_us": 50_000,
        "autellix.prefill_us": 200_000,
        "autellix.decode_us": 500_000,
        "autellix.swap_us": 0,
        "autellix.other_us": 150_000,
        "autellix.wall_us": 1_000_000,
        "autellix.engine": "e0",
        "autellix.outcome": "ok",
        "autellix.tenant": "acme",
    }
    assert span.attributes is not None
    assert (conventions | bill_parts).items() <= span.attributes.items()
    assert error_attributes.ERROR_TYPE not in span.attributes
    at_s = {event.name: (event.timestamp - EPOCH_NS) / 1e9 for event in span.events}
    assert at_s == {
        "autellix.held": 10.0,
        "autellix.sent": 10.25,
        "autellix.first_byte": 10.5,
        "autellix.billed": 11.0,
    }


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("chat/completions", "chat"),
        ("messages", "chat"),
        ("completions", "text_completion"),
        ("embeddings", "embeddings"),
        ("rerank", "rerank"),
    ],
)
def test_operations_have_the_conventions_names(bench: Bench, path: str, operation: str) -> None:
    """What the conventions have no name for keeps its own."""
    span = bench.run(ended(path=f"/v1/{path}", model=""))
    assert span.attributes is not None
    assert (span.name, span.attributes["gen_ai.operation.name"]) == (operation, operation)


def test_an_anonymous_call_has_no_program(bench: Bench) -> None:
    """Its span is a root, or the client's child."""
    root = bench.run(ended(single_call=True))
    child = bench.run(ended(single_call=True, traceparent=client(7, 8)))
    assert (parent(root), parent(child)) == (None, (7, 8))
    assert len(bench.finished()) == 2


def test_a_program_joins_the_trace_of_its_first_call(bench: Bench) -> None:
    """In that trace a call is the program's child and linked to the client's span."""
    first = bench.run(ended(traceparent=client(7, 8)))
    second = bench.run(ended(traceparent=client(7, 9)))
    bench.spans.close()
    whole = bench.finished()[-1]
    assert parent(whole) == (7, 8)
    assert parent(first) == parent(second) == ids(whole)
    assert (links(first), links(second)) == ([(7, 8)], [(7, 9)])


def test_a_call_of_another_trace_stays_in_it(bench: Bench) -> None:
    """The next turn of a session has a trace of its own: it is whole, and linked to the program."""
    bench.run(ended(traceparent=client(7, 8)))
    second, third = bench.run(ended(traceparent=client(70, 9))), bench.run(ended())
    bench.spans.close()
    whole = bench.finished()[-1]
    assert (parent(second), links(second)) == ((70, 9), [ids(whole)])
    assert (parent(third), links(third)) == (ids(whole), [])


def test_what_the_client_does_not_sample_is_not_exported(bench: Bench) -> None:
    """Neither the call nor the program; the engine is still told the trace."""
    call = ended(traceparent=client(7, 8, flags=0))
    bench.spans.call_arrived(call)
    told = bench.spans.headers(call)
    bench.spans.call_ended(call)
    bench.spans.program_ended(program())
    assert bench.finished() == ()
    assert (told["traceparent"][:36], told["traceparent"][-3:]) == (client(7, 8)[:36], "-00")


@pytest.mark.parametrize(
    "text", ["", "secret", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 5000, "ff-" + "1" * 60]
)
def test_a_malformed_context_is_none(bench: Bench, text: str) -> None:
    """The call's span is the program's child."""
    span = bench.run(ended(traceparent=text))
    bench.spans.close()
    assert (parent(span), span.links) == (ids(bench.finished()[-1]), ())


def test_the_engine_continues_the_calls_span(bench: Bench) -> None:
    """It gets the span's own context; a call that has ended has none."""
    call = ended()
    bench.spans.call_arrived(call)
    headers = bench.spans.headers(call)
    bench.spans.call_ended(call)
    trace, span = ids(bench.finished()[-1])
    assert headers.keys() == {"traceparent"}
    assert headers["traceparent"].startswith(client(trace, span)[:-2])
    assert bench.spans.headers(call) == {}


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.FAILED, StatusCode.ERROR), (Outcome.REJECTED, StatusCode.UNSET), (Outcome.CLIENT_LEFT, StatusCode.UNSET)],
)
def test_only_the_servers_failures_are_errors(bench: Bench, outcome: Outcome, status: StatusCode) -> None:
    """As for any server span; what became of the call is said in any case."""
    call = arrived()
    call.note(Stage.SENT, 10.5, "e0")
    call.note(Stage.FAILED, 10.75, "e0", "connection")
    call.end(outcome, 11.0)
    span = bench.run(call)
    assert span.attributes is not None
    assert (span.status.status_code, span.attributes["error.type"]) == (status, outcome)
    assert dict(span.events[-1].attributes or {}) == {"autellix.engine": "e0", "error.type": "connection"}


def test_a_step_of_the_systems_clock_stretches_no_call(bench: Bench) -> None:
    """The clock goes back an hour while a call runs; the next call is where the clock is now."""
    call = ended(10.0)
    bench.spans.call_arrived(call)
    bench.now_s, bench.step_s = 11.0, -3600.0
    bench.spans.call_ended(call)
    bench.run(ended(11.0))
    first, second = bench.finished()
    assert (first.start_time, first.end_time) == (EPOCH_NS + 10 * 10**9, EPOCH_NS + 11 * 10**9)
    assert second.start_time == EPOCH_NS + (11 - 3600) * 10**9


def by_calls(bench: Bench, call: CallRecord) -> None:
    """Let as many calls arrive as a segment has."""
    for _ in range(module.SEGMENT_CALLS):
        bench.run(call)


def by_time(bench: Bench, call: CallRecord) -> None:
    """Let a call arrive, and time pass."""
    bench.run(call)
    bench.now_s += module.SEGMENT_S


@pytest.mark.parametrize("exhaust", [by_calls, by_time])
def test_a_long_program_is_several_spans(bench: Bench, exhaust: Callable[[Bench, CallRecord], None]) -> None:
    """The first one is exported when the next begins, which is linked to it and in a trace of its own."""
    exhaust(bench, ended(bench.now_s))
    assert not [span for span in bench.finished() if span.kind is SpanKind.INTERNAL]
    last = bench.run(ended(bench.now_s))
    bench.spans.program_ended(program())
    first, second = (span for span in bench.finished() if span.kind is SpanKind.INTERNAL)
    assert (parent(last), links(second)) == (ids(second), [ids(first)])
    assert ids(first)[0] != ids(second)[0]
    numbers = [(span.attributes or {})["autellix.program.segment"] for span in (first, second)]
    assert numbers == [1, 2]


def test_nothing_is_kept_of_what_has_ended(bench: Bench) -> None:
    """Neither calls nor programs, also when the end is told twice or of something unknown."""
    for number in range(100):
        call = ended(who=context(f"p{number}"))
        bench.run(call)
        bench.spans.call_ended(call)
        for _ in range(2):
            bench.spans.program_ended(program(f"p{number}"))
    assert (len(bench.spans._calls), len(bench.spans._programs), len(bench.finished())) == (0, 0, 200)


def test_nothing_of_the_clients_text_is_exported(bench: Bench) -> None:
    """What a client can put into a record besides IDs and its program's name."""
    call = ended(traceparent="secret")
    call.settle(bill(), 11.0)
    bench.run(call)
    bench.spans.close()
    assert not [span for span in bench.finished() if "secret" in span.to_json()]
