"""What the client adds, in microseconds: per stamped call, per task, per look-up; and bytes per live task.

Run it alone: ``python tests/sdk/bench_sdk.py``. Figures are the best of several rounds, with the client minus without.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import autellix_sdk as autellix
from autellix_sdk import _intercept
from autellix_sdk._runtime import runtime
from autellix_sdk._strands import current_strand

BASE_URL = "http://127.0.0.1:8700/v1"
ROUNDS = 150
CALLS = 200
TASKS = 500


async def _nothing() -> None:
    return None


def _best_us(measure: Callable[[], float], count: int) -> float:
    return min(measure() for _ in range(ROUNDS)) / count * 1e6


def _calls_us(library: Any) -> float:
    """Time of one call through a client whose transport answers at once."""
    client = library.Client(transport=library.MockTransport(lambda request: library.Response(200)))
    client.headers.update({f"x-stainless-{number}": "value" for number in range(9)})
    client.headers["x-stainless-retry-count"] = "0"

    def measure() -> float:
        requests = [client.build_request("POST", BASE_URL + "/chat/completions") for _ in range(CALLS)]
        start_s = time.perf_counter()
        for request in requests:
            client.send(request)
        return time.perf_counter() - start_s

    with client:
        return _best_us(measure, CALLS)


def _hook_us(library: Any) -> float:
    """Time of our request hook alone, on requests it has not seen; nothing while the client is off."""
    if runtime.settings is None:
        return 0.0
    client = library.Client(headers={f"x-stainless-{number}": "value" for number in range(9)})
    best_s = float("inf")
    for _ in range(ROUNDS):
        requests = [client.build_request("POST", BASE_URL + "/chat/completions") for _ in range(CALLS)]
        current_strand().sending = flights = []
        start_s = time.perf_counter()
        for request in requests:
            _intercept._on_request(request)
        best_s = min(best_s, time.perf_counter() - start_s)
        for flight in flights:
            flight.close()
    return best_s / CALLS * 1e6


async def _async_calls_us(library: Any) -> float:
    async with library.AsyncClient(transport=library.MockTransport(lambda _: library.Response(200))) as client:
        best_s = float("inf")
        for _ in range(ROUNDS):
            requests = [client.build_request("POST", BASE_URL + "/chat/completions") for _ in range(CALLS)]
            start_s = time.perf_counter()
            for request in requests:
                await client.send(request)
            best_s = min(best_s, time.perf_counter() - start_s)
        return best_s / CALLS * 1e6


async def _tasks_us() -> float:
    """Time of one task, from its creation to its end."""
    loop, best_s = asyncio.get_running_loop(), float("inf")
    for _ in range(ROUNDS):
        start_s = time.perf_counter()
        tasks = [loop.create_task(_nothing()) for _ in range(TASKS)]
        await tasks[-1]
        await asyncio.sleep(0)
        best_s = min(best_s, time.perf_counter() - start_s)
    return best_s / TASKS * 1e6


async def _bytes_per_task() -> float:
    loop = asyncio.get_running_loop()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [loop.create_task(_nothing()) for _ in range(TASKS)]
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    await asyncio.gather(*tasks)
    return used / TASKS


def _in_loop(run: Callable[[], Awaitable[float]], uvloop: bool = False) -> float:
    factory = importlib.import_module("uvloop").new_event_loop if uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(run())  # type: ignore[arg-type]


def _report(label: str, measure: Callable[[], float], unit: str = "us") -> None:
    """Print a figure with the client off, on, and the difference."""
    off = measure()
    autellix.init(BASE_URL)
    with autellix.program("bench"):
        on = measure()
    autellix.shutdown()
    print(f"{label:34s} without {off:8.2f}   with {on:8.2f}   added {on - off:7.2f} {unit}")


def main() -> None:
    """Print every figure for which the packages are installed."""
    for name in ("httpx", "httpx2"):
        if importlib.util.find_spec(name):
            library = importlib.import_module(name)
            _report(f"{name}, our hook alone", lambda library=library: _hook_us(library))
            _report(f"{name}, one call", lambda library=library: _calls_us(library))
            _report(f"{name}, one async call", lambda library=library: _in_loop(lambda: _async_calls_us(library)))
    _report("asyncio, one task to its end", lambda: _in_loop(_tasks_us))
    if importlib.util.find_spec("uvloop"):
        _report("uvloop, one task to its end", lambda: _in_loop(_tasks_us, uvloop=True))
    _report("asyncio, one live task", lambda: _in_loop(_bytes_per_task), "bytes")


if __name__ == "__main__":
    main()
