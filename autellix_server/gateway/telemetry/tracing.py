"""Turns spans on when the environment asks for them, by the standard ``OTEL_*`` variables and nothing else.

Without them, and without the extra ``otel``, nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from autellix_sdk.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from autellix_server.gateway.telemetry.spans import Spans

CLOSE_LIMIT_S = 3.0
"""What a stopping gateway waits for its collector."""

_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"
_SERVICE_NAME = "autellix-gateway"


@dataclass(frozen=True, slots=True)
class Tracing:
    """Spans and what exports them.

    Attributes:
        spans: the listener.
        provider: exports in a thread of its own, as ``OTEL_BSP_*`` say.
    """

    spans: Spans
    provider: TracerProvider

    def close(self) -> None:
        """End what is open and export what is left. Blocks for up to `CLOSE_LIMIT_S`: not on the event loop."""
        self.spans.close()
        # Without a collector the SDK tries for half a minute; its threads do not keep the process alive.
        shutdown = threading.Thread(target=self.provider.shutdown, daemon=True)
        shutdown.start()
        shutdown.join(CLOSE_LIMIT_S)


def open_tracing(host: str, port: int, clock: Callable[[], float], environ: Mapping[str, str]) -> Tracing | None:
    """Return spans as the environment asks for them, `None` where it does not.

    It asks with ``OTEL_TRACES_EXPORTER=otlp`` or with an OTLP endpoint; ``OTEL_TRACES_EXPORTER=none`` and
    ``OTEL_SDK_DISABLED=true`` take precedence. Everything else, such as sampler, headers and service name, is read by
    the SDK itself.

    Args:
        host, port: where clients reach the gateway.
        clock: of the ledger, in seconds.
        environ: the environment; the SDK reads the process's own.

    Raises:
        ConfigurationError: an exporter or a protocol that is not there, or the extra is not installed.
    """
    if not _asked_for(environ):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from autellix_server.gateway.telemetry.spans import Address, Spans
    except ImportError as error:
        asking = next(name for name in (_EXPORTER, *_ENDPOINTS) if environ.get(name))
        raise ConfigurationError(
            f"{asking} asks for traces, which need OpenTelemetry; install it with: pip install 'autellix[otel]'"
        ) from error
    # Of a collector that is away one line for each batch is enough, not one for each attempt.
    logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.ERROR)
    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(
        resource=Resource.create({} if named else {"service.name": _SERVICE_NAME}),
        shutdown_on_exit=False,  # The gateway does it, when no call is left.
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("autellix", version("autellix"))
    return Tracing(Spans(tracer, Address(host, port), clock, time.time_ns), provider)


def _asked_for(environ: Mapping[str, str]) -> bool:
    """Say whether spans are to be exported, and refuse what cannot be."""
    exporter = environ.get(_EXPORTER, "").strip().lower()
    if exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if not exporter and not any(environ.get(name) for name in _ENDPOINTS):
        return False
    if exporter not in ("", "otlp"):
        raise ConfigurationError(f"{_EXPORTER} is {exporter!r}: traces are exported with otlp; set it to otlp or none")
    protocol = next((name for name in _PROTOCOLS if environ.get(name)), None)
    if protocol is not None and environ[protocol] != _HTTP:
        raise ConfigurationError(
            f"{protocol} is {environ[protocol]!r}: traces are exported over HTTP; set it to {_HTTP}, and the "
            "endpoint to the collector's HTTP port, usually 4318"
        )
    return True
