"""What telemetry costs a call, in microseconds: ``python tests/gateway/telemetry/bench_telemetry.py``."""

from __future__ import annotations

import io
import time
import timeit
from collections.abc import Callable

from opentelemetry.sdk.trace import TracerProvider
from telemetry_records import ended

from autellix_server.gateway.telemetry.events import Listener, Listeners
from autellix_server.gateway.telemetry.logs import CallLog, set_up_logging
from autellix_server.gateway.telemetry.metrics import Metrics
from autellix_server.gateway.telemetry.spans import Address, Spans
from autellix_server.gateway.telemetry.timeline import Timelines

CALLS = 5000
RUNS = 7


def cost_us(action: Callable[[], object]) -> float:
    """Return the time of one action, the best of several runs."""
    return min(timeit.repeat(action, number=CALLS, repeat=RUNS)) / CALLS * 1e6


def main() -> None:
    """Measure and print."""
    set_up_logging("json", "info", io.StringIO())
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("bench")
    spans = Spans(tracer, Address("127.0.0.1", 8700), time.monotonic, time.time_ns)
    rows: dict[str, tuple[Listener, ...]] = {
        "nobody": (),
        "metrics": (Metrics(),),
        "logs": (CallLog(),),
        "timelines": (Timelines(),),
        "spans": (spans,),
    }
    call = ended()
    print(f"a call's record  {cost_us(ended):6.2f} us")
    for name, listening in rows.items():
        listeners = Listeners(listening)

        def tell(listeners: Listeners = listeners) -> None:
            listeners.call_arrived(call)
            listeners.call_ended(call)

        print(f"{name:16} {cost_us(tell):6.2f} us")


if __name__ == "__main__":
    main()
