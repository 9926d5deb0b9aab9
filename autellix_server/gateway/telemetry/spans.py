"""OpenTelemetry spans: one per call, under one per program. Counts and times, never text of client or model.

Whose child a call's span is: a call that brings the client's trace context is always part of the client's trace, so
that nobody's trace is torn. If the program's span is in that trace, it is the parent and the client's span is linked;
else the client's span is the parent and the program's is linked. Without a context the program's span is the parent.
The program's span is a child of the client's span that came with its first call, and so shares trace and sampling with
it. Of the context only ``traceparent`` is taken on: ``tracestate`` is free text.

Programs can be long and exporters see a span only when it ends. So a program's span covers at most `SEGMENT_CALLS`
calls and `SEGMENT_S` seconds; the next call begins another one, in its own client's trace or a new one, linked to the
one before. That bounds how late a span comes, how much a crash loses, and how large a trace grows, for which the
usual stores have limits too.

Names follow the GenAI semantic conventions as opentelemetry-semantic-conventions 0.66b2 has them. They stand here as
text, since that package marks them as moved; a test compares them. The conventions have no provider name for us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, get_current_span
from opentelemetry.trace import set_span_in_context as in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from autellix_sdk.bill import CallBill, ProgramBill
from autellix_sdk.wire import ProgramId
from autellix_server.gateway.telemetry.events import CallRecord, Listener, Outcome, Stage
from autellix_server.scheduling.table import Program

SEGMENT_CALLS = 1000
SEGMENT_S = 900.0

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_NS = 1_000_000_000
_PROPAGATOR = TraceContextTextMapPropagator()

_Attributes = dict[str, AttributeValue]


@dataclass(slots=True)
class _Segment:
    """The span of a program, or of a part of it.

    Attributes:
        span: of the program.
        began_s: when its first call arrived.
        number: 1 for the first part of the program.
        calls: calls that arrived in this part.
    """

    span: Span
    began_s: float
    number: int
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """Where clients reach the gateway, as spans say it.

    Attributes:
        host: name or address.
        port: port.
    """

    host: str
    port: int


class Spans(Listener):
    """Makes spans of what it hears. Lives on the event loop; exporting is the tracer's business.

    Args:
        tracer: where spans are started.
        address: where clients reach the gateway.
        clock: of the ledger, in seconds.
        wall_ns: nanoseconds since 1970. Each call is placed by it once, at its arrival: a step of the system's clock
            moves calls and never stretches one.
    """

    def __init__(
        self, tracer: Tracer, address: Address, clock: Callable[[], float], wall_ns: Callable[[], int]
    ) -> None:
        self._tracer = tracer
        self._address = address
        self._clock = clock
        self._wall_ns = wall_ns
        self._calls: dict[CallRecord, tuple[Span, int]] = {}
        self._programs: dict[ProgramId, _Segment] = {}

    def call_arrived(self, call: CallRecord) -> None:
        """Start the span of a call, and that of its program if it has none."""
        start_ns = self._at_ns(call.arrived_s)
        client = _client_span(call)
        program = None if call.single_call else self._program_span(call, client, start_ns)
        parent, linked = _family(program, client)
        operation = _OPERATIONS.get(call.path, call.path.removeprefix("/v1/"))
        span = self._tracer.start_span(
            f"{operation} {call.model}".rstrip(),
            context=Context() if parent is None else in_context(parent, Context()),
            kind=SpanKind.SERVER,
            attributes=self._asked(call, operation),
            links=() if linked is None else (Link(linked.get_span_context()),),
            start_time=start_ns,
        )
        self._calls[call] = span, start_ns

    def call_ended(self, call: CallRecord) -> None:
        """End the span of a call with what became of it."""
        started = self._calls.pop(call, None)
        if started is None or call.ended_s is None:
            return
        span, start_ns = started

        def at_ns(at_s: float) -> int:
            return start_ns + round((at_s - call.arrived_s) * _NS)

        if span.is_recording():
            span.set_attributes(_answered(call))
            for moment in call.moments:
                details = {"autellix.engine": moment.engine, "error.type": moment.reason}
                span.add_event(
                    f"autellix.{moment.stage}", {key: text for key, text in details.items() if text}, at_ns(moment.at_s)
                )
            if call.outcome is Outcome.FAILED:
                span.set_status(StatusCode.ERROR)
        span.end(at_ns(call.ended_s))

    def program_ended(self, program: Program) -> None:
        """End the program's span, if it had a call since it was opened."""
        segment = self._programs.pop(program.id, None)
        if segment is not None:
            ended_s = self._clock() if program.ended_s is None else program.ended_s
            segment.span.set_attributes(_program_totals(program.bill(ended_s)))
            segment.span.set_attribute("autellix.program.ended_by", "message" if program.ending else "lease")
            self._end_segment(segment, ended_s)

    def headers(self, call: CallRecord) -> dict[str, str]:
        """Return the trace context with which the call goes to an engine, so that the engine's spans are its children.

        Empty for a call without a span.
        """
        carrier: dict[str, str] = {}
        if (started := self._calls.get(call)) is not None:
            _PROPAGATOR.inject(carrier, in_context(started[0], Context()))
        return carrier

    def close(self) -> None:
        """End the spans of programs that still live; the last thing to be called, before the tracer is shut down."""
        now = self._clock()
        for segment in self._programs.values():
            self._end_segment(segment, now)
        self._programs.clear()

    def _program_span(self, call: CallRecord, client: Span | None, start_ns: int) -> Span:
        """Return the span of the call's program; a new one for its first call and where the last one covers enough."""
        program = call.context.program
        last = self._programs.get(program)
        if last is not None and last.calls < SEGMENT_CALLS and call.arrived_s - last.began_s < SEGMENT_S:
            last.calls += 1
            return last.span
        if last is not None:
            self._end_segment(last, call.arrived_s)
        number = 1 if last is None else last.number + 1
        attributes: _Attributes = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.conversation.id": program,
            "autellix.tenant": call.tenant,
            "autellix.program.segment": number,
        }
        if call.context.name:
            attributes["gen_ai.workflow.name"] = call.context.name
        span = self._tracer.start_span(
            f"invoke_workflow {call.context.name or ''}".rstrip(),
            context=Context() if client is None else in_context(client, Context()),
            attributes=attributes,
            links=() if last is None else (Link(last.span.get_span_context()),),
            start_time=start_ns,
        )
        self._programs[program] = _Segment(span, call.arrived_s, number, calls=1)
        return span

    def _end_segment(self, segment: _Segment, ended_s: float) -> None:
        segment.span.set_attribute("autellix.program.segment_calls", segment.calls)
        segment.span.end(self._at_ns(ended_s))

    def _asked(self, call: CallRecord, operation: str) -> _Attributes:
        context = call.context
        return {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "autellix",
            "gen_ai.request.model": call.model,
            "gen_ai.request.stream": call.streamed,
            "gen_ai.conversation.id": context.program,
            "server.address": self._address.host,
            "server.port": self._address.port,
            "autellix.tenant": call.tenant,
            "autellix.call": context.call,
            "autellix.thread": context.thread,
            "autellix.retry": context.retry,
        }

    def _at_ns(self, at_s: float) -> int:
        """Return the wall time of a moment on the ledger's clock, as seen now."""
        return self._wall_ns() - round((self._clock() - at_s) * _NS)


def _client_span(call: CallRecord) -> Span | None:
    """Return the client's span that the call was made in, `None` without a valid one."""
    if call.traceparent is None:
        return None
    span = get_current_span(_PROPAGATOR.extract({"traceparent": call.traceparent}, Context()))
    return span if span.get_span_context().is_valid else None


def _family(program: Span | None, client: Span | None) -> tuple[Span | None, Span | None]:
    """Return parent and linked span of a call, by the rule at the top."""
    if program is None or client is None:
        return program or client, None
    same_trace = program.get_span_context().trace_id == client.get_span_context().trace_id
    return (program, client) if same_trace else (client, program)


def _answered(call: CallRecord) -> _Attributes:
    attributes: _Attributes = {"autellix.engine": call.engine, "autellix.outcome": str(call.outcome)}
    if call.outcome is not Outcome.OK:
        attributes["error.type"] = str(call.outcome)
    first_byte = call.last(Stage.FIRST_BYTE)
    if first_byte is not None and call.streamed:
        attributes["gen_ai.response.time_to_first_chunk"] = first_byte.at_s - call.arrived_s
    if call.bill is not None:
        attributes.update(_billed(call.bill))
    return attributes


def _billed(bill: CallBill) -> Iterator[tuple[str, AttributeValue]]:
    yield "gen_ai.usage.input_tokens", bill.prompt_tokens
    yield "gen_ai.usage.output_tokens", bill.output_tokens
    yield "gen_ai.usage.cache_read.input_tokens", bill.cached_tokens
    yield "autellix.recomputed_tokens", bill.recomputed_tokens
    yield "autellix.swapped_tokens", bill.swapped_tokens
    yield "autellix.preemptions", bill.preemptions
    yield "autellix.service_us", bill.service_us
    yield "autellix.level", bill.level
    for cause, queued_us in bill.time.queued_us.items():
        yield f"autellix.queued.{cause}_us", queued_us
    yield "autellix.prefill_us", bill.time.prefill_us
    yield "autellix.decode_us", bill.time.decode_us
    yield "autellix.swap_us", bill.time.swap_us
    yield "autellix.other_us", bill.time.other_us
    yield "autellix.wall_us", bill.time.wall_us


def _program_totals(bill: ProgramBill) -> _Attributes:
    return {
        "gen_ai.usage.input_tokens": bill.prompt_tokens,
        "gen_ai.usage.output_tokens": bill.output_tokens,
        "autellix.calls": bill.calls,
        "autellix.threads": bill.threads,
        "autellix.preemptions": bill.preemptions,
        "autellix.service_us": bill.service_us,
        "autellix.queued_us": bill.time.total_queued_us,
        "autellix.wall_us": bill.time.wall_us,
        "autellix.tool_us": bill.tool_us,
    }
