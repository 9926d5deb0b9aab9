"""`autellix mock-engine`: an engine model behind an OpenAI-compatible server."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import TYPE_CHECKING

from autellix_sdk.errors import ConfigurationError, UsageError
from autellix_server.commands.engine_model import add_model_arguments, chosen_model
from autellix_server.commands.output import Subparsers, add_command, print_json
from autellix_server.commands.stopping import add_stdin_flag, stop_requests, stop_when_stdin_ends
from autellix_server.mock_engine import DEFAULT_HOST, DEFAULT_PORT
from autellix_server.scheduling.policies import DEFAULT_POLICY

if TYPE_CHECKING:
    from autellix_server.mock_engine.server import MockServer, MockSettings

EPILOG = """\
what it is:
  The engine of `autellix simulate` in real time: batch, chunked prefill, prefix cache, preemption and policy are
  the same objects, and answers take as long as the model says. The words mean nothing, the counts and times do.
  A word is about a token. It needs no GPU, no model and no engine environment.
  With AUTELLIX_SECRET, 32 hexadecimal digits or more, it believes the stamps of a gateway that has the same.

faults, written kind[:value[:value]]:
  refuse:STATUS:SECONDS   429, 500 or 503 (the default), with Retry-After: SECONDS (1)
  close                   the connection ends before the first byte of an answer
  cut:TOKENS              a stream ends after so many tokens (3); any other answer in its middle
  hang                    no answer, ever
  garbage                 an answer that is not JSON
  slow:FACTOR:SECONDS     steps take FACTOR (4) times as long for SECONDS (10)
  unhealthy:SECONDS       /health says 503 for SECONDS (10); calls still work
  die                     the process ends at once, with exit status 70
  --fault KIND@P lets it happen to each call with probability P. Faults for the next calls, at any time:
    curl -X POST URL/mock/faults -H 'content-type: application/json' -d '{"kind": "refuse", "status": 429, "count": 3}'
  GET shows what stands, what is scheduled and what has happened; DELETE ends all of it. slow, unhealthy and die
  concern the engine: ordered so, they happen at once.

examples:
  autellix mock-engine
  autellix mock-engine --preset h100-8b --policy fcfs --speed 10
  autellix mock-engine --engine-model mine.json --port 0 --json
  autellix mock-engine --fault refuse:429@0.05 --fault cut:20@0.01 --seed 7

Ctrl-C, SIGTERM and the end of its terminal stop it with exit status 0.
"""

_MAX = 1e6

READY = """
The mock engine is ready
  url      {url}/v1
  model    {model}: {source}
  policy   {policy}, {speed:g} virtual seconds a second

  from openai import OpenAI; client = OpenAI(base_url="{url}/v1", api_key="none")

Press Ctrl-C to stop."""


def register(subparsers: Subparsers) -> None:
    """Add `autellix mock-engine`."""
    parser = add_command(
        subparsers,
        "mock-engine",
        summary="an engine model behind an OpenAI-compatible server, with faults on demand",
        description="Answer as an engine would, without one: to test what stands above it.",
        epilog=EPILOG,
    )
    parser.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on, 0 for a free one (default: %(default)s)"
    )
    add_model_arguments(parser, default="a100-8b")
    parser.add_argument(
        "--policy",
        default=DEFAULT_POLICY,
        metavar="NAME",
        help="scheduling policy, one of those of `autellix simulate` but srpt (default: %(default)s)",
    )
    parser.add_argument(
        "--first-bound-s",
        type=_over_zero,
        metavar="S",
        help="virtual seconds of service after which a program leaves the best level (default: calibrated)",
    )
    parser.add_argument(
        "--speed", type=_over_zero, default=1.0, metavar="X", help="virtual seconds per second (default: %(default)s)"
    )
    parser.add_argument("--model-name", default="mock", metavar="NAME", help="name of the model (default: %(default)s)")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="KIND@P", help="a fault at a standing rate; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults' draws (default: %(default)s)")
    add_stdin_flag(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; exit status 0 then."""
    from autellix_server.gateway.telemetry.logs import set_up_logging
    from autellix_server.mock_engine.server import MockServer

    set_up_logging("text", "warning")
    if args.until_stdin_ends:
        stop_when_stdin_ends()
    settings = _settings(args)
    return asyncio.run(_serve(MockServer(settings), settings, args))


def _settings(args: argparse.Namespace) -> MockSettings:
    """Return what was asked for.

    Raises:
        UsageError: a value is wrong; names the flag or the variable.
    """
    from autellix_server.mock_engine.faults import StandingFault
    from autellix_server.mock_engine.server import MockSettings
    from autellix_server.scheduling.bounds import BoundSettings
    from autellix_server.scheduling.planner import PlannerSettings
    from autellix_server.scheduling.policies import SERVABLE
    from autellix_server.simulator.run import SimulationSettings
    from autellix_server.stamp import read_secret

    if args.policy not in SERVABLE:
        raise UsageError(f"--policy is {args.policy!r}; choose one of: {', '.join(SERVABLE)}")
    if not 0 <= args.port <= 65535:
        raise UsageError(f"--port is {args.port}; choose one from 0 to 65535")
    bounds = BoundSettings(args.first_bound_s)
    planner = PlannerSettings(calibrated=bounds.calibrated)
    try:
        faults = tuple(map(StandingFault.parse, args.fault))
    except ConfigurationError as error:
        raise UsageError(f"--fault: {error}") from error
    return MockSettings(
        SimulationSettings(chosen_model(args), args.policy, bounds.levels, planner=planner),
        model_name=args.model_name,
        speed=args.speed,
        secret=read_secret(os.environ),
        faults=faults,
        seed=args.seed,
    )


async def _serve(server: MockServer, settings: MockSettings, args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from autellix_server.mock_engine.server import listening

    asked_to_stop = stop_requests()
    async with listening(server, args.host, args.port) as (url, life):
        simulation = settings.simulation
        if args.json:
            print_json(
                {"event": "ready", "url": url, "pid": os.getpid(), "model": settings.model_name}
                | {"policy": simulation.policy, "speed": settings.speed, "seed": settings.seed}
            )
        else:
            print(
                READY.format(
                    url=url,
                    model=settings.model_name,
                    source=simulation.model.source,
                    policy=simulation.policy,
                    speed=settings.speed,
                ),
                flush=True,
            )
        stop = asyncio.create_task(asked_to_stop.wait())
        await asyncio.wait({stop, life}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if life.done():
            life.result()
    print("autellix: stopped", file=sys.stderr)
    return 0


def _over_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= _MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number over 0 and at most {_MAX:g}")
    return value
