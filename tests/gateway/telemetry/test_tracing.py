"""Tracing as the environment asks for it, up to a collector."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from telemetry_records import ended, program

from autellix_sdk.errors import ConfigurationError
from autellix_server.gateway.telemetry import tracing as module
from autellix_server.gateway.telemetry.tracing import Tracing, open_tracing


def clock() -> float:
    """Return the time at which calls of `telemetry_records` arrive."""
    return 10.0


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """Run a collector that takes spans like this, and return its address."""
    app = web.Application()
    app.router.add_post("/v1/traces", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, list[tuple[web.Request, ExportTraceServiceRequest]]]]:
    """Run what takes spans over OTLP, and return its address and what it got."""
    exported = []

    async def take(request: web.Request) -> web.Response:
        exported.append((request, ExportTraceServiceRequest.FromString(await request.read())))
        return web.Response(content_type="application/x-protobuf")

    async with serving(take) as url:
        yield url, exported


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OTEL_TRACES_EXPORTER",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_SERVICE_NAME",
        "OTEL_RESOURCE_ATTRIBUTES",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def opened(monkeypatch: pytest.MonkeyPatch, **environ: str) -> Tracing:
    """Return tracing as these variables ask for it."""
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    tracing = open_tracing("127.0.0.1", 8700, clock, environ)
    assert tracing is not None
    return tracing


async def test_spans_reach_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """With headers, service name and attributes from the environment; closing exports what is left."""
    async with collector() as (url, exported):
        tracing = opened(
            monkeypatch,
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_EXPORTER_OTLP_HEADERS="x-team=blue",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        )
        call = ended()
        tracing.spans.call_arrived(call)
        tracing.spans.call_ended(call)
        tracing.spans.program_ended(program())
        await asyncio.to_thread(tracing.close)
    (request, batch), *more = exported
    assert (request.headers["x-team"], more) == ("blue", [])
    resource = {each.key: each.value.string_value for each in batch.resource_spans[0].resource.attributes}
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("autellix-gateway", "test")
    spans = batch.resource_spans[0].scope_spans[0].spans
    assert [span.name for span in spans] == ["chat tiny", "invoke_workflow"]
    assert spans[0].parent_span_id == spans[1].span_id
    assert spans[0].end_time_unix_nano - spans[0].start_time_unix_nano == 10**9


async def test_a_collector_that_hangs_does_not_keep_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has not taken within the limit is lost."""
    monkeypatch.setattr(module, "CLOSE_LIMIT_S", 0.05)
    asked, done = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        asked.set()
        await done.wait()
        return web.Response()

    async with serving(hang) as url:
        tracing = opened(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=url)
        tracing.spans.call_arrived(ended())
        await asyncio.to_thread(tracing.close)
        await asked.wait()
        done.set()


@pytest.mark.parametrize(
    "environ", [{"OTEL_SERVICE_NAME": "mine"}, {"OTEL_RESOURCE_ATTRIBUTES": "a=b,service.name=mine"}]
)
async def test_the_service_is_named_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    """Either of its two variables."""
    async with collector() as (url, exported):
        tracing = opened(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=url, **environ)
        tracing.spans.call_arrived(ended())
        await asyncio.to_thread(tracing.close)
    names = [each.value.string_value for each in exported[0][1].resource_spans[0].resource.attributes]
    assert "mine" in names
    assert "autellix-gateway" not in names


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "mine"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "True", "OTEL_TRACES_EXPORTER": "otlp"},
    ],
)
def test_tracing_is_off_unless_it_is_asked_for(environ: dict[str, str]) -> None:
    """And what says no goes before what says where."""
    assert open_tracing("127.0.0.1", 8700, clock, environ) is None


@pytest.mark.parametrize(
    ("environ", "remedy"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER is 'jaeger'.* set it to otlp or none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "PROTOCOL is 'grpc'.*http/protobuf"),
    ],
)
def test_what_cannot_be_exported_to_is_refused(environ: dict[str, str], remedy: str) -> None:
    """At start, with the variable and what to set it to."""
    with pytest.raises(ConfigurationError, match=remedy):
        open_tracing("127.0.0.1", 8700, clock, environ)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which variable asks, and what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigurationError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT asks.*autellix\[otel\]"):
        open_tracing("127.0.0.1", 8700, clock, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})


def test_nothing_is_imported_unless_it_is_asked_for() -> None:
    """In a process of its own, as this one has it already."""
    code = (
        "import sys\n"
        "from autellix_server.gateway.telemetry.tracing import open_tracing\n"
        "assert open_tracing('127.0.0.1', 8700, lambda: 0.0, {}) is None\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
