"""`autellix demo`: several agents on a fresh server, shown live, with their time bills at the end."""

from __future__ import annotations

import argparse

from autellix_server.commands.output import Subparsers, add_command, print_json
from autellix_server.scheduling.policies import DEFAULT_POLICY

EPILOG = """\
what you see:
  Starts `autellix serve` with the bundled model on a free port, runs ReAct and Monte Carlo tree search
  programs from examples/ side by side, and shows each program live: level (0 is the best), calls done and
  in flight, threads, and where its time went. Ends with the table of time bills and with what the agents
  found. The bundled model is small: most of its answers are wrong, and the agents say so.

examples:
  autellix demo
  autellix demo --policy fcfs             the same under first come, first served
  autellix demo --json                    final table and timings as one JSON object
"""


def register(subparsers: Subparsers) -> None:
    """Add `autellix demo`."""
    parser = add_command(
        subparsers,
        "demo",
        summary="run several agents against a fresh server and show where their time goes",
        description="Run real agents against a fresh server and show where their time goes.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--policy", default=DEFAULT_POLICY, help="the server's scheduling policy (default: %(default)s)"
    )
    parser.set_defaults(run=run, takes_passthrough=True)


def run(args: argparse.Namespace) -> int:
    """Run the demo; exit status 0 when every agent ran to its end."""
    import asyncio

    from rich.console import Console

    from autellix_server.demo.run import run_demo, show_outcome

    serve_arguments = ["--policy", args.policy, *(["--", *args.passthrough] if args.passthrough else [])]
    outcome = asyncio.run(run_demo(serve_arguments, Console(stderr=True)))
    if args.json:
        print_json(outcome.to_json())
    else:
        show_outcome(outcome)
    return 0 if outcome.succeeded else 1
