"""What the client adds, beside context variables and OpenTelemetry: per call, task, job and look-up, and in memory.

Run it alone: ``python tests/sdk/bench_sdk.py``. The arms of a figure take turns, round by round; of each the best round
counts, and what it adds is the difference to the best one with nothing on, with the ratio of the two in brackets.
``--rounds`` makes it longer and steadier.

- **context variables**: the least that a client built on them has to do. The program is in one, a request hook reads it
  and writes two headers. It knows no threads, calls or parents.
- **OpenTelemetry**: its own instrumentation of the OpenAI client, with a tracer that makes spans and exports none.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import importlib.util
import logging
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import openai

import autellix_sdk as autellix
from autellix_sdk import _intercept
from autellix_sdk._strands import current_strand
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER

BASE_URL = "http://127.0.0.1:8700/v1"
CALLS = 50
TASKS = 500
JOBS = 200
LOOK_UPS = 2000
OTEL = "opentelemetry-sdk opentelemetry-instrumentation-openai-v2 'opentelemetry-util-genai<1'"

_program: ContextVar[str | None] = ContextVar("program", default=None)


@dataclass(frozen=True)
class Arm:
    """One way of following programs.

    Attributes:
        name: what the table calls it.
        on: a context in which it is on, in a program.
        hook: what it has a client call for each request, if that can be called alone.
        look_up: how it knows the program, if that can be asked.
    """

    name: str
    on: Callable[[], AbstractContextManager[None]]
    hook: Callable[[Any], None] | None = None
    look_up: Callable[[], object] | None = None


@dataclass(frozen=True)
class Figure:
    """Something to measure.

    Attributes:
        label: what the table calls it.
        measure: takes a sample with an arm on, per item, in seconds or bytes; `None` when the arm has no such thing.
        unit: ``us`` or ``bytes``.
    """

    label: str
    measure: Callable[[Arm], float | None]
    unit: str = "us"


@contextmanager
def _nothing_on() -> Iterator[None]:
    yield


@contextmanager
def _autellix_on() -> Iterator[None]:
    autellix.init(BASE_URL)
    try:
        with autellix.program("bench"):
            yield
    finally:
        autellix.shutdown()


@contextmanager
def _context_variable_on() -> Iterator[None]:
    token = _program.set("bench")
    try:
        yield
    finally:
        _program.reset(token)


@contextmanager
def _opentelemetry_on() -> Iterator[None]:
    instrumentor: Any = importlib.import_module("opentelemetry.instrumentation.openai_v2").OpenAIInstrumentor()
    provider = importlib.import_module("opentelemetry.sdk.trace").TracerProvider()
    instrumentor.instrument(tracer_provider=provider)
    try:
        with provider.get_tracer("bench").start_as_current_span("bench"):
            yield
    finally:
        instrumentor.uninstrument()


def _context_variable_hook(request: Any) -> None:
    program = _program.get()
    if program is not None:
        request.headers[PROGRAM_HEADER] = program
        request.headers[CALL_HEADER] = "v1"


def arms() -> list[Arm]:
    """Return the arms whose packages are installed; say what is missing."""
    found = [
        Arm("nothing", _nothing_on, lambda request: None, lambda: None),
        Arm("context variables", _context_variable_on, _context_variable_hook, _program.get),
        Arm("Autellix", _autellix_on, _intercept._on_request, autellix.current),
    ]
    modules = ("opentelemetry.instrumentation.openai_v2", "opentelemetry.sdk.trace")
    if importlib.util.find_spec("opentelemetry") and all(map(importlib.util.find_spec, modules)):
        return [*found[:2], Arm("OpenTelemetry", _opentelemetry_on), *found[2:]]
    print(f"OpenTelemetry: not installed; pip install {OTEL}\n")
    return found


def _openai_call(arm: Arm) -> float:
    """One call of the OpenAI client, through a transport that answers at once."""
    library = _library_of(openai.DefaultHttpxClient)
    transport = library.MockTransport(lambda _: library.Response(200, json=_ANSWER))
    http = _with_hook(openai.DefaultHttpxClient(transport=transport), arm)
    with arm.on(), openai.OpenAI(base_url=BASE_URL, api_key="key", http_client=http) as client:
        return _timed(CALLS, lambda: client.chat.completions.create(model="m", messages=_QUESTION))


def _openai_async_call(arm: Arm) -> float:
    """The same of the async client."""
    library = _library_of(openai.DefaultAsyncHttpxClient)
    transport = library.MockTransport(lambda _: library.Response(200, json=_ANSWER))

    async def run() -> float:
        http = openai.DefaultAsyncHttpxClient(transport=transport)
        if arm.hook is _context_variable_hook:
            http.event_hooks["request"].append(_as_async(arm.hook))
        async with openai.AsyncOpenAI(base_url=BASE_URL, api_key="key", http_client=http) as client:
            await client.chat.completions.create(model="m", messages=_QUESTION)
            start_s = time.perf_counter()
            for _ in range(CALLS):
                await client.chat.completions.create(model="m", messages=_QUESTION)
            return (time.perf_counter() - start_s) / CALLS

    with arm.on():
        return _in_loop(run)


def _http_call(library: Any) -> Callable[[Arm], float | None]:
    def measure(arm: Arm) -> float | None:
        """One call of a client of httpx or httpx2, with the headers that the OpenAI client sends."""
        if arm.hook is None:
            return None
        transport = library.MockTransport(lambda _: library.Response(200))
        with arm.on(), _with_hook(library.Client(transport=transport, headers=_HEADERS), arm) as client:
            requests = iter([client.build_request("POST", BASE_URL + "/chat/completions") for _ in range(CALLS + 1)])
            return _timed(CALLS, lambda: client.send(next(requests)))

    return measure


def _hook(library: Any) -> Callable[[Arm], float | None]:
    def measure(arm: Arm) -> float | None:
        """What a request hook does, on requests it has not seen."""
        if arm.hook is None:
            return None
        with arm.on(), library.Client(headers=_HEADERS) as client:
            requests = iter([client.build_request("POST", BASE_URL + "/chat/completions") for _ in range(CALLS + 1)])
            current_strand().sending = flights = []
            hook = arm.hook
            took_s = _timed(CALLS, lambda: hook(next(requests)))
            for flight in flights:
                flight.close()
            return took_s

    return measure


def _look_up(arm: Arm) -> float | None:
    """Ask which program the code belongs to."""
    look_up = arm.look_up
    if look_up is None:
        return None
    with arm.on():
        return _timed(LOOK_UPS, look_up)


def _task(uvloop: bool) -> Callable[[Arm], float | None]:
    async def run() -> float:
        loop = asyncio.get_running_loop()
        start_s = time.perf_counter()
        tasks = [loop.create_task(_nothing()) for _ in range(TASKS)]
        await tasks[-1]
        await asyncio.sleep(0)  # the done callbacks of the last one
        return (time.perf_counter() - start_s) / TASKS

    def measure(arm: Arm) -> float:
        """One task, from its creation to its end."""
        with arm.on():
            return _in_loop(run, uvloop)

    return measure


def _job(arm: Arm) -> float:
    """One job of a thread pool, until all are done."""
    with arm.on(), ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        start_s = time.perf_counter()
        jobs = [pool.submit(int) for _ in range(JOBS)]
        jobs[-1].result()
        return (time.perf_counter() - start_s) / JOBS


def _live_task(arm: Arm) -> float:
    """Memory of a task that has yet to run."""

    async def run() -> float:
        loop = asyncio.get_running_loop()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tasks = [loop.create_task(_nothing()) for _ in range(TASKS)]
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        await asyncio.gather(*tasks)
        return used / TASKS

    with arm.on():
        return _in_loop(run)


_QUESTION: Any = [{"role": "user", "content": "is it?"}]
_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
_ANSWER = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [_CHOICE]}
_HEADERS = {f"x-stainless-{number}": "value" for number in range(9)} | {"x-stainless-retry-count": "0"}


async def _nothing() -> None:
    return None


def _as_async(hook: Callable[[Any], None]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    async def async_hook(request: Any) -> None:
        hook(request)

    return async_hook


def _with_hook(client: Any, arm: Arm) -> Any:
    """Have a client call the hook of an arm that does not see to that by itself."""
    if arm.hook is _context_variable_hook:
        client.event_hooks["request"].append(arm.hook)
    return client


def _library_of(client_class: type) -> Any:
    """Return httpx or httpx2: the one that a client class of openai's is made with."""
    return importlib.import_module(client_class.__mro__[1].__module__.partition(".")[0])


def _timed(count: int, action: Callable[[], object]) -> float:
    """Time an action per go, without the first one: a process's first call starts the client's thread."""
    action()
    start_s = time.perf_counter()
    for _ in range(count):
        action()
    return (time.perf_counter() - start_s) / count


def _in_loop(run: Callable[[], Coroutine[Any, Any, float]], uvloop: bool = False) -> float:
    factory = importlib.import_module("uvloop").new_event_loop if uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(run())


def figures() -> list[Figure]:
    """Return what can be measured with the packages that are installed."""
    libraries = [importlib.import_module(name) for name in ("httpx", "httpx2") if importlib.util.find_spec(name)]
    uvloop = [Figure("uvloop, a task to its end", _task(True))] if importlib.util.find_spec("uvloop") else []
    return [
        Figure("openai, a call", _openai_call),
        Figure("openai, an async call", _openai_async_call),
        *(Figure(f"{library.__name__}, a call", _http_call(library)) for library in libraries),
        *(Figure(f"{library.__name__}, the request hook alone", _hook(library)) for library in libraries),
        Figure("asyncio, a task to its end", _task(False)),
        *uvloop,
        Figure("thread pool, a job to its end", _job),
        Figure("look-up of the program", _look_up),
        Figure("asyncio, a live task", _live_task, "bytes"),
    ]


def compare(figure: Figure, arms: Sequence[Arm], rounds: int) -> dict[str, float]:
    """Return what each arm costs at best, by name; arms take turns."""
    for arm in arms:
        figure.measure(arm)  # what is imported and cached once
    gc.collect()
    gc.freeze()
    best: dict[str, float] = {}
    for _ in range(rounds):
        for arm in arms:
            gc.collect()
            gc.disable()
            sample = figure.measure(arm)
            gc.enable()
            if sample is not None:
                best[arm.name] = min(best.get(arm.name, sample), sample)
    return best


def main() -> None:
    """Print a table: each figure with nothing on, and what each arm adds to it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=100, help="samples of each arm for each figure")
    parser.add_argument("--only", default="", help="part of the names of the figures to measure")
    arguments = parser.parse_args()
    logging.getLogger("autellix_sdk").setLevel(logging.ERROR)  # nobody listens at BASE_URL, which is told once
    measured = arms()
    first, *others = [arm.name for arm in measured]
    print(f"| figure | unit | {first} | {' | '.join(f'{name} adds' for name in others)} |")
    print(f"|---|---|{'---:|' * len(measured)}")
    for figure in figures():
        if arguments.only in figure.label:
            scale = 1e6 if figure.unit == "us" else 1.0
            best = {name: value * scale for name, value in compare(figure, measured, arguments.rounds).items()}
            added = [
                f"{best[name] - best[first]:.2f} ({best[name] / best[first]:.2f}x)" if name in best else ""
                for name in others
            ]
            print(f"| {figure.label} | {figure.unit} | {best[first]:.2f} | {' | '.join(added)} |", flush=True)


if __name__ == "__main__":
    main()
