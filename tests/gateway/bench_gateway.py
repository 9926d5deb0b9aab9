"""What the gateway adds to a call: the same open-loop load straight to a fake engine and through a gateway.

Run ``python tests/gateway/bench_gateway.py [--rate 200] [--seconds 5] [--rounds 4]``. Engine, gateway and load each
have a process; direct and gateway rounds alternate, so that noise of the machine meets both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp

sys.path.append(str(Path(__file__).parent))

from fake_engine import CHAT, SECRET, FakeEngine, identity, ready, running_engine, running_gateway


def run_engine(pipe: Connection) -> None:
    """Run the fake engine until killed."""

    async def main() -> None:
        async with running_engine() as engine:
            assert engine.status.address is not None
            pipe.send(engine.status.address.url)
            while True:
                await asyncio.sleep(1)
                engine.seen.clear()

    asyncio.run(main())


def run_gateway(pipe: Connection, engine_url: str) -> None:
    """Run a gateway in front of it until killed."""

    async def main() -> None:
        engine = FakeEngine(ready(engine_url, SECRET))
        async with running_gateway(engine, time.monotonic) as gateway:  # type: ignore[arg-type]
            pipe.send(gateway.url)
            await asyncio.Event().wait()

    asyncio.run(main())


async def load(url: str, rate: float, seconds: float, stream: bool) -> list[float]:
    """Make calls at a fixed rate, whether or not earlier ones are done; return their latencies in milliseconds."""
    latencies: list[float] = []

    async def call(session: aiohttp.ClientSession, number: int) -> None:
        began = time.perf_counter()
        headers = identity(f"p{number % 50}", f"0.{number}")
        async with session.post("/v1/chat/completions", json={**CHAT, "stream": stream}, headers=headers) as response:
            await response.read()
        latencies.append(1e3 * (time.perf_counter() - began))

    async with aiohttp.ClientSession(url) as session, asyncio.TaskGroup() as group:
        start = time.perf_counter()
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            group.create_task(call(session, number))
    return latencies[len(latencies) // 10 :]  # The first tenth opens connections.


def main() -> None:
    """Print medians and 99th percentiles, direct and through the gateway, and what is added."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200.0, help="calls per second")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    engine = context.Process(target=run_engine, args=(theirs,), daemon=True)
    engine.start()
    engine_url = ours.recv()
    gateway = context.Process(target=run_gateway, args=(theirs, engine_url), daemon=True)
    gateway.start()
    gateway_url = ours.recv()
    for stream in (False, True):
        found: dict[str, list[float]] = {engine_url: [], gateway_url: []}
        for _ in range(options.rounds):
            for url, latencies in found.items():
                latencies += asyncio.run(load(url, options.rate, options.seconds, stream))
        (direct, direct_p99), (through, through_p99) = map(summary, found.values())
        print(
            f"{'stream' if stream else 'plain':6} median {direct:.2f} -> {through:.2f} ms (+{through - direct:.2f}), "
            f"P99 {direct_p99:.2f} -> {through_p99:.2f} ms (+{through_p99 - direct_p99:.2f})"
        )
    gateway.terminate()
    engine.terminate()


def summary(latencies: list[float]) -> tuple[float, float]:
    """Return median and 99th percentile."""
    return statistics.median(latencies), statistics.quantiles(latencies, n=100)[98]


if __name__ == "__main__":
    main()
