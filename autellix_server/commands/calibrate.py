"""`autellix calibrate`: the engine model of a running server, measured."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from autellix_sdk.errors import UsageError
from autellix_server.commands.arguments import above_zero, count, whole
from autellix_server.commands.engine_model import write_model
from autellix_server.commands.output import (
    Subparsers,
    add_command,
    check_writable,
    print_json,
    print_table,
    progress_display,
)
from autellix_server.engine.limits import EngineLimits
from autellix_server.gateway import DEFAULT_HOST, DEFAULT_PORT

if TYPE_CHECKING:
    from autellix_server.calibration.client import HttpClient
    from autellix_server.calibration.probes import Limits
    from autellix_server.calibration.run import Calibration
    from autellix_server.engine.progress import Progress

EPILOG = """\
what happens:
  Prompts of several lengths and batches of several sizes are sent to a server that nobody else uses; from
  their times come the four coefficients of the simulator's engine model. Then a few programs run on the
  server and on the model, and are compared. It takes minutes; --quick takes a third of that.

what must be known:
  slots, KV tokens and chunk size. `autellix serve` tells them under /health and SGLang under /server_info; for
  other servers give --slots, --kv-tokens and --chunk-tokens. What is given goes before what is told.

environment:
  AUTELLIX_API_KEY    sent as bearer token, for servers that want one

examples:
  autellix calibrate --output here.json                                     `autellix serve` on this machine
  autellix calibrate --url http://127.0.0.1:30000 --output h100.json        an SGLang server
  autellix calibrate --url http://127.0.0.1:8000 --slots 256 --kv-tokens 400000 --chunk-tokens 2048
  autellix simulate --workload chat --engine-model here.json
"""


def register(subparsers: Subparsers) -> None:
    """Add `autellix calibrate`."""
    parser = add_command(
        subparsers,
        "calibrate",
        summary="measure a running engine and write the engine model that `simulate` takes",
        description="Measure a running OpenAI-compatible server and fit the simulator's engine model to it.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--url",
        default=f"http://{DEFAULT_HOST}:{DEFAULT_PORT}",
        help="the server, without /v1 (default: %(default)s)",
    )
    parser.add_argument("--model", metavar="NAME", help="model to ask for (default: the first that is listed)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the engine model to this file")
    parser.add_argument("--quick", action="store_true", help="fewer probes and repetitions")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--slots", type=count, metavar="N", help="calls that the engine decodes together")
    parser.add_argument("--kv-tokens", type=count, metavar="N", help="tokens that its KV memory holds")
    parser.add_argument("--chunk-tokens", type=count, metavar="N", help="prompt tokens that a step computes at most")
    parser.add_argument("--context-tokens", type=count, metavar="N", help="longest call (default: as the server says)")
    carried = parser.add_argument_group("taken over into the model, not measured")
    carried.add_argument("--host-tokens", type=whole, default=0, metavar="N", help="KV memory on the host (default: 0)")
    carried.add_argument(
        "--kv-bytes-per-token",
        type=count,
        default=131_072,
        metavar="N",
        help="default: %(default)s, that of Llama 3 8B",
    )
    carried.add_argument(
        "--link-bytes-per-s", type=above_zero, default=2e10, metavar="X", help="device to host (default: %(default)g)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print and write; exit status 0 also with warnings."""
    if args.output is not None:
        check_writable(args.output, "--output")
    with progress_display() as progress:
        found = asyncio.run(measure(args, progress))
    if args.output is not None:
        write_model(args.output, found.model, found.report())
    if args.json:
        print_json({"model": asdict(found.model), "fit": found.report()})
    else:
        show(found, args.output)
    return 0


async def measure(args: argparse.Namespace, progress: Progress) -> Calibration:
    """Connect and calibrate.

    Raises:
        UsageError: a limit is neither given nor said by the server.
        EngineFailure: the server does not answer, or not as it should.
    """
    from autellix_server.calibration.client import HttpClient
    from autellix_server.calibration.run import CalibrationSettings, calibrate

    async with HttpClient.connect(args.url, args.model, os.environ.get("AUTELLIX_API_KEY")) as client:
        settings = CalibrationSettings(
            limits=await limits(args, client),
            host_tokens=args.host_tokens,
            kv_bytes_per_token=args.kv_bytes_per_token,
            link_bytes_per_s=args.link_bytes_per_s,
            quick=args.quick,
            salt=secrets.token_hex(8),
            seed=args.seed,
        )
        return await calibrate(client, settings, client.model, progress)


async def limits(args: argparse.Namespace, client: HttpClient) -> Limits:
    """Return the limits of the server: as given, else as it says.

    Raises:
        UsageError: one is neither; names all that are missing.
    """
    from autellix_server.calibration.probes import Limits

    given = EngineLimits(args.slots, args.kv_tokens, args.chunk_tokens).to_json()
    said = (await client.limits()).to_json() if None in given.values() else given
    found = {name: value for name in given if (value := given[name] or said[name]) is not None}
    missing = [f"--{name.replace('_', '-')}" for name in given if name not in found]
    if missing:
        raise UsageError(f"{args.url} does not say all its limits: give {', '.join(missing)}")
    longest: int = args.context_tokens or client.context_tokens or found["kv_tokens"]
    return Limits(**found, context_tokens=longest)


UNITS = {
    "step_s": ("ms a step", 1e3),
    "prefill_token_s": ("us a prompt token", 1e6),
    "prefix_token_s": ("us a token before those of a prompt", 1e6),
    "decode_sequence_s": ("us a call in a decode step", 1e6),
    "kv_token_s": ("us a KV token read by a decode step", 1e6),
    "request_s": ("ms a call beside its steps, not in the model", 1e3),
}


def show(found: Calibration, output: Path | None) -> None:
    """Print coefficients, how well they fit, the proof, and warnings."""
    rows = []
    for name, (unit, factor) in UNITS.items():
        interval = found.fit.intervals[name]
        cells = (factor * value for value in (found.fit.estimates[name], interval.low, interval.high))
        estimate, low, high = (f"{cell:.4g}" for cell in cells)
        rows.append((name, estimate, f"{low} to {high}", unit))
    print_table(("coefficient", "estimate", "95 % interval", "unit"), rows, f"{found.model.source}")
    quality = [
        (
            kind,
            one.probes,
            f"{one.r2:.3f}",
            *(f"{100 * share:.1f} %" for share in (one.median_error, one.p90_error, one.spread)),
        )
        for kind, one in found.fit.quality.items()
    ]
    columns = ("probes of", "probes", "R2", "median error", "P90 error", "spread of repetitions")
    print_table(columns, quality, "predicted against measured seconds")
    proof = found.validation
    measured, simulated = proof.measured, proof.simulated
    print_table(
        ("", "server", "model", "model / server"),
        [
            (
                "mean token latency, ms",
                f"{1e3 * measured.token_latency_s:.1f}",
                f"{1e3 * simulated.token_latency_s:.1f}",
                f"{proof.token_latency_ratio:.2f}",
            ),
            ("makespan, s", f"{measured.makespan_s:.1f}", f"{simulated.makespan_s:.1f}", f"{proof.makespan_ratio:.2f}"),
        ],
        f"{proof.programs} programs of {proof.calls} calls, in real time and in simulation",
    )
    for warning in found.warnings:
        print(f"warning: {warning}")
    if output is not None:
        print(f"written to {output}; use it with: autellix simulate --engine-model {output}")
