"""`autellix gateway-bench`: what our gateway adds and carries, beside other gateways and beside none."""

from __future__ import annotations

import argparse
import asyncio
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from autellix_sdk.errors import UsageError
from autellix_server.commands.arguments import above_zero, count, counts, whole
from autellix_server.commands.output import Subparsers, add_command, print_json, print_table, progress_display
from autellix_server.commands.serve import allow_connections
from autellix_server.engine.home import Home

if TYPE_CHECKING:
    from autellix_server.engine.progress import Progress
    from autellix_server.gateway_bench.arms import AnyArm
    from autellix_server.gateway_bench.load import Load
    from autellix_server.gateway_bench.results import Results
    from autellix_server.gateway_bench.run import GatewayBench

METHOD = """\
added: the latency of calls through a gateway less that of calls straight to the engine, in pairs of slices of
  some seconds, one right after the other, in turn direct first and gateway first. Calls arrive by the clock, in the
  same Poisson stream for both, whatever became of those before them; a latency counts from when the call was due to
  the last byte of its answer (coordinated omission is avoided).
streams: every event says when it was due at the engine, and is late by how much later it reaches the client; the
  engine's own lateness is part of it, and the rows "direct" show how much that is. A rung is carried when every
  event comes and 99 of 100 come in time; the ladder ends at the first that is not, in two attempts.
CPU, cores: what the kernel counts for all processes of the gateway, the opening of the streams included.
memory: resident memory of all processes of the gateway, before streams are opened and while they are."""

EPILOG = f"""\
arms:
  direct   no gateway
  ours     `autellix serve` as an operator starts it, attached to the engine: calls are identified, stamped and
           billed; what follows -- goes to it
  --server NAME=COMMAND adds any gateway for OpenAI's chat completions: {{port}} stands for the port that it is to
  listen on (127.0.0.1), {{engine}} for the engine's URL, http://127.0.0.1:PORT.

the engine:
  It gives fixed answers at the pace that is asked for and computes nothing: tens of microseconds a call, so that it
  is not what is measured. It knows the paths on which SGLang's and vLLM's routers ask for health and model.

how it measures:
  Rounds of all arms in turn, A B C, then C B A, each arm started anew with an engine of its own, and warmed up.

{METHOD}

examples:
  autellix gateway-bench                                   ours and direct; twelve minutes, nothing else should run
  autellix gateway-bench --rounds 1 --seconds 2 --events 1000,5000
  autellix gateway-bench --events 0 --json                 calls alone
  autellix gateway-bench -- --lease-s 60                   another setting of ours
  autellix gateway-bench --server "sglang-router=sglang-router launch --port {{port}} --worker-urls {{engine}}"
  make bench-gateway                                       beside LiteLLM, sglang-router and vllm-router, pinned

Ctrl-C ends it with what was complete, and exit status 130.
"""


def register(subparsers: Subparsers) -> None:
    """Add `autellix gateway-bench`."""
    parser = add_command(
        subparsers,
        "gateway-bench",
        summary="compare our gateway with other gateways and with none: added latency, streams, memory",
        description="Measure what a gateway adds to a call, where its streams break, and the memory of one.",
        epilog=EPILOG,
    )
    parser.add_argument("--rounds", type=count, default=3, metavar="N", help="turns of each arm (default: %(default)s)")
    for flag, kind, default, what in (
        ("--rate", above_zero, 200.0, "calls a second"),
        ("--seconds", above_zero, 5.0, "length of each slice of calls and each rung of streams"),
        ("--slices", count, 2, "pairs of slices in a turn, for each kind of call"),
        ("--prompt-bytes", whole, 2000, "length of prompts"),
        ("--per-stream", above_zero, 50.0, "events a second of each stream"),
        ("--late-ms", above_zero, 50.0, "P99 of events' delays at which streams are late"),
        ("--held", whole, 500, "streams open at once while memory is measured, 0: it is not"),
    ):
        parser.add_argument(flag, type=kind, default=default, metavar="N", help=f"{what} (default: %(default)g)")
    parser.add_argument(
        "--events",
        type=_ladder,
        metavar="N,N",
        help="events a second of all streams, rung by rung, 0: none (default: 1000 to 50000)",
    )
    parser.add_argument(
        "--server", action="append", default=[], metavar="NAME=COMMAND", help="a further arm; may be repeated"
    )
    parser.set_defaults(run=run, takes_passthrough=True)


def run(args: argparse.Namespace) -> int:
    """Measure and print; exit status 0 whatever the figures are."""
    from autellix_server.gateway_bench.precise import precise_loop

    load, arms = _load(args), _arms(args)
    allow_connections()
    with progress_display() as progress:
        bench = _bench(args, arms, load, progress)
        with asyncio.Runner(loop_factory=precise_loop) as runner:
            complete = runner.run(bench.run())
    if bench.results.pairs or bench.results.rungs:
        _show(args, bench.results, {"complete": complete, "rounds": args.rounds, **asdict(load)})
    if not complete:
        raise KeyboardInterrupt
    return 0


def _ladder(text: str) -> list[int]:
    """Return the rungs in `text`; ``0`` is none."""
    return [] if text == "0" else counts(text)


def _load(args: argparse.Namespace) -> Load:
    from autellix_server.gateway_bench.load import Load

    return Load(
        rate=args.rate,
        seconds=args.seconds,
        slices=args.slices,
        prompt_bytes=args.prompt_bytes,
        per_stream=args.per_stream,
        late_s=args.late_ms / 1e3,
        held=args.held,
        **({} if args.events is None else {"ladder": args.events}),
    )


def _arms(args: argparse.Namespace) -> list[AnyArm]:
    """Return who takes part.

    Raises:
        UsageError: an arm cannot be run; found before anything is started.
    """
    from autellix_server.gateway_bench.arms import OwnArm, command_arm, names_of

    arms: list[AnyArm] = [OwnArm(tuple(args.passthrough)), *(command_arm(text) for text in args.server)]
    names_of(arms)
    for arm in arms:
        if shutil.which(arm.words[0]) is None:
            raise UsageError(f"--server {arm.name}: there is no program {arm.words[0]}; give its path")
    return arms


def _bench(args: argparse.Namespace, arms: list[AnyArm], load: Load, progress: Progress) -> GatewayBench:
    from autellix_server.gateway_bench.arms import names_of
    from autellix_server.gateway_bench.results import Results
    from autellix_server.gateway_bench.run import GatewayBench

    logs = Home.from_environment().log("gateway-bench").parent
    return GatewayBench(arms, load, args.rounds, logs, progress, Results(names_of(arms)))


def _show(args: argparse.Namespace, results: Results, settings: dict[str, Any]) -> None:
    from autellix_server.bench.outcome import environment
    from autellix_server.gateway_bench.tables import tables

    if args.json:
        print_json({**results.to_json(), "settings": settings, "environment": environment()})
        return
    for table in tables(results):
        print_table(table.columns, table.rows, table.title)
    print(METHOD)
    for warning in results.warnings:
        print(f"Note: {warning}")
