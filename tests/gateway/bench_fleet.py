"""What a fleet gains by every engine: tokens/s of 1, 2, 4 and 8 mock engines behind one gateway, per balancer.

Run ``python tests/gateway/bench_fleet.py [--balancers autellix,prefix,hash] [--programs 12]``; four minutes a balancer.

Engines are `autellix mock-engine` with a model of a GPU's part, so that two cores are enough for eight. Every engine
gets as many programs as another; all are there from the start, and what is counted is what was generated between a
fifth and three fifths of all calls, while every engine is busy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from autellix_server.bench.client import ClientSettings, connect, open_session
from autellix_server.bench.driver import Driver
from autellix_server.bench.records import ProgramRecord
from autellix_server.simulator.model import make_model
from autellix_server.simulator.model_file import format_model
from autellix_server.traces.arrivals import arrive_at
from autellix_server.traces.model import TraceProgram
from autellix_server.traces.scaling import Scale, scale_program
from autellix_server.traces.workloads.registry import generate

SIZES = (1, 2, 4, 8)
MODEL = replace(make_model("a100-8b"), slots=8, kv_tokens=15_000, host_tokens=24_000)
SCALE = Scale(outputs=0.5, context_tokens=4000)
SECRET_VARIABLE = "AUTELLIX_BENCH_FLEET_SECRET"


def main() -> None:
    """Print one line for each fleet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--balancers", default="autellix,prefix,hash", help="names, with commas")
    parser.add_argument("--programs", type=int, default=12, help="for each engine")
    parser.add_argument("--workload", default="chat")
    options = parser.parse_args()
    scaled = (scale_program(program, SCALE) for program in generate(options.workload, 101))
    programs = list(islice(filter(None, scaled), options.programs))
    for balancer in options.balancers.split(","):
        alone = 0.0
        for size in SIZES:
            tokens_per_s, found = measured(size, balancer, programs)
            alone = alone or tokens_per_s
            share = tokens_per_s / (size * alone)
            print(
                f"{balancer:12} {size} engines {tokens_per_s:7.0f} tokens/s {share:5.2f} of linear, {found:.0%} cached",
                flush=True,
            )


def measured(size: int, balancer: str, programs: list[TraceProgram]) -> tuple[float, float]:
    """Return what a fleet generates in a second, and the share of prompt tokens that it found cached."""
    with tempfile.TemporaryDirectory() as folder, fleet(size, balancer, Path(folder)) as url:
        return asyncio.run(drive(url, programs * size))


@contextmanager
def fleet(size: int, balancer: str, folder: Path) -> Iterator[str]:
    """Run engines and a gateway that shares a secret with them; the gateway's URL."""
    secret = secrets.token_hex(16)
    (folder / "model.json").write_text(format_model(MODEL, {}))
    environ = {**os.environ, "AUTELLIX_SECRET": secret, SECRET_VARIABLE: secret}
    engine = (
        "mock-engine",
        "--engine-model",
        str(folder / "model.json"),
        "--port",
        "0",
        "--until-stdin-ends",
        "--json",
    )
    with ExitStack() as stack:
        urls = [stack.enter_context(command(engine, environ))["url"] for _ in range(size)]
        entries = (f'[[engine]]\nurl = "{url}"\nsecret_env = "{SECRET_VARIABLE}"\n' for url in urls)
        (folder / "engines.toml").write_text("".join(entries))
        words = (
            "--engines-file",
            str(folder / "engines.toml"),
            "--balancer",
            balancer,
            "--port",
            "0",
            "--state",
            "none",
        )
        yield stack.enter_context(command(("serve", *words, "--json"), environ))["url"]


@contextmanager
def command(words: tuple[str, ...], environ: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Run a command of ours as long as the context lasts; what it printed when it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "autellix_server", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environ,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


async def drive(url: str, programs: list[TraceProgram]) -> tuple[float, float]:
    """Run programs that all arrive at once, in any order; see `measured`."""
    random.Random(1).shuffle(programs)
    async with open_session(url, ClientSettings()) as session:
        driver = Driver(await connect(session, ClientSettings()), Unwatched(), salt="f")
        await driver.run(list(arrive_at(programs, repeat(0.0))))
    return rate(driver.records)


class Unwatched:
    """Nobody looks."""

    def changed(self, arrived: int, ended: int, failed: int) -> None:
        """Do nothing."""


def rate(records: list[ProgramRecord]) -> tuple[float, float]:
    """Return tokens/s in the middle, and the cached share of prompt tokens, of programs of which none failed."""
    assert not [record.failure for record in records if record.failure]
    calls = sorted((call for record in records for call in record.calls), key=lambda call: call.answer.ended_s)
    busy = calls[len(calls) // 5 : 3 * len(calls) // 5]
    tokens = sum(call.tokens for call in busy)
    bills = [call.answer.bill for call in calls if call.answer.bill is not None]
    cached = sum(bill.cached_tokens for bill in bills) / sum(bill.prompt_tokens for bill in bills)
    return tokens / (busy[-1].answer.ended_s - busy[0].answer.ended_s), cached


if __name__ == "__main__":
    main()
