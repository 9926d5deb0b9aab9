"""`autellix bench`: servers compared under real load."""

from __future__ import annotations

import argparse
import os
import re
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from autellix_sdk.errors import UsageError
from autellix_server.commands.arguments import above_zero, count, names, over_one, rates, zero_or_more
from autellix_server.commands.output import Subparsers, add_command, print_json, print_table, progress_display

if TYPE_CHECKING:
    from autellix_server.bench.outcome import Outcome
    from autellix_server.bench.plan import Arm, Cut, Pace
    from autellix_server.bench.run import Bench, Plan
    from autellix_server.traces.model import TraceProgram

EPILOG = """\
how it measures:
  Programs arrive by the clock, whatever the server manages; inside a program a call starts when its parents are
  done and their tools have run. Latency counts from when a call was to start, so that a server which stalls is
  charged for all that it delays (no coordinated omission). What the client itself takes is printed beside it.
  Prompts are made up so that they share with each other what the trace says, and outputs are forced to its length.
  Programs that arrive in the first and last part of a round run but do not count (--warmup, --cooldown).

servers:
  --arm NAME=URL for servers that run already, once for each; any OpenAI-compatible server will do.
  --policies a,b starts `autellix serve --policy a`, and so on, one at a time; what follows -- goes to it, and what
  follows a second -- to SGLang. Rounds alternate (A B, B A, ...) over the same arrivals, with other words each time.

examples:
  autellix bench --arm http://127.0.0.1:8700 --workload react --programs 20 --rate 0.2
  autellix bench --policies fcfs,plas --workload mixed --programs 60 --rates 0.1,0.2,0.4 --slowdown 2 --output out
  autellix bench --arm new=http://a:8000 --arm old=http://b:8000 --trace mine.jsonl --arrivals trace --json
  autellix bench --policies fcfs,plas --workload chat --rate 0.5 --scale-prompts 0.1 --scale-outputs 0.1 \\
      --scale-context 2048 -- --device cpu -- --max-running-requests 4

Ctrl-C ends it with what was measured until then, and exit status 130.
"""
DEFAULT_PROGRAMS = 100
CUT_SHARE = 0.1
"""Of a round's arrivals, at each end, unless told otherwise."""

LEAST_PROGRAMS_TO_CUT = 10
"""Of fewer programs, nothing is cut unless told so."""


_NAMED_URL = re.compile(r"(?:(?P<name>[A-Za-z0-9][A-Za-z0-9 ._-]{0,39})=)?(?P<url>https?://.+)")
_LONE_ARM = "server"


def register(subparsers: Subparsers) -> None:
    """Add `autellix bench`."""
    parser = add_command(
        subparsers,
        "bench",
        summary="compare servers under real load: programs arrive, whatever the server manages",
        description="Run agent programs against OpenAI-compatible servers and compare how long they take.",
        epilog=EPILOG,
    )
    _add_load(parser)
    _add_servers(parser)
    _add_scale(parser)
    parser.add_argument("--output", type=Path, metavar="DIR|FILE", help="write bench.html and bench.json there")
    parser.set_defaults(run=run, takes_passthrough=True)


def _add_load(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("programs and their arrival")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", type=Path, metavar="FILE", help="programs of this trace (see: autellix trace)")
    source.add_argument("--workload", metavar="NAME", help="generated programs: chat, react, mcts, mixed, ...")
    number = f"how many (default: all of a trace, {DEFAULT_PROGRAMS} of a workload)"
    group.add_argument("--programs", type=count, metavar="N", help=number)
    group.add_argument("--rates", "--rate", type=rates, help="programs per second, such as 0.5,1; inf: all at once")
    group.add_argument(
        "--arrivals", choices=("poisson", "trace"), default="poisson", help="trace: at its own times, without --rates"
    )
    group.add_argument("--repeats", type=count, metavar="K", help="rounds of each (default: 1; 2 with several servers)")
    usual = f"{100 * CUT_SHARE:g}%%, 0 for fewer than {LEAST_PROGRAMS_TO_CUT} programs"
    for flag, which in (("--warmup", "first"), ("--cooldown", "last")):
        part = f"{which} part of the arrivals, %% or seconds, whose programs do not count (default: {usual})"
        group.add_argument(flag, type=_cut, metavar="PART", help=part)
    group.add_argument(
        "--slowdown",
        type=over_one,
        metavar="X",
        help="also find the rate at which latency is X times that of the unloaded first server; wants several rates",
    )
    group.add_argument(
        "--unloaded", type=count, default=10, metavar="N", help="programs run one at a time for it (default: 10)"
    )
    group.add_argument("--seed", type=int, default=0, help="other programs and arrivals (default: %(default)s)")


def _add_servers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("servers and how they are spoken to")
    servers = group.add_mutually_exclusive_group(required=True)
    servers.add_argument("--arm", action="append", type=_arm, metavar="[NAME=]URL", help="a server; may be repeated")
    servers.add_argument("--policies", type=names, metavar="A,B", help="start a server of ours for each, see below")
    group.add_argument("--api", choices=("completions", "chat"), default="completions", help="default: %(default)s")
    group.add_argument("--model", help="name of the model (default: the first that the server lists)")
    group.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key")
    group.add_argument("--timeout", type=above_zero, default=600.0, metavar="S", help="of a call (default: 600)")
    group.add_argument("--free-lengths", action="store_true", help="let the model end its outputs early")
    group.add_argument("--anonymous", action="store_true", help="do not say which program a call belongs to")
    group.add_argument("--no-class-names", action="store_true", help="do not tell servers what kind a program is")


def _add_scale(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("making programs fit small engines")
    group.add_argument("--scale-prompts", type=above_zero, default=1.0, metavar="F", help="factor on prompt lengths")
    group.add_argument("--scale-outputs", type=above_zero, default=1.0, metavar="F", help="factor on output lengths")
    group.add_argument("--scale-gaps", type=zero_or_more, default=1.0, metavar="F", help="factor on tool gaps")
    group.add_argument(
        "--scale-unknown-gap", type=zero_or_more, metavar="S", help="seconds where the trace knows no gap (default: 0)"
    )
    group.add_argument("--scale-context", type=count, metavar="TOKENS", help="leave out calls that are longer")
    group.add_argument("--scale-calls", type=count, metavar="N", help="the first N calls of each program")


def run(args: argparse.Namespace) -> int:
    """Run, print and write the report; exit status 0, 130 when interrupted."""
    import asyncio
    import secrets

    from autellix_server.bench.client import ClientSettings
    from autellix_server.bench.report import report_files
    from autellix_server.bench.run import Bench
    from autellix_server.errors import ServerError

    plan = _plan(args)
    client = ClientSettings(
        args.api, args.model, _api_key(args.api_key_env), args.timeout, not args.free_lengths, args.anonymous
    )
    files = None if args.output is None else report_files(args.output)
    with progress_display() as progress:
        bench = Bench(plan, client, progress, nonce=secrets.token_hex(2))
        try:
            complete = asyncio.run(bench.run())
        except ServerError:
            _conclude(args, bench, files, interrupted=True)
            raise
    _conclude(args, bench, files, interrupted=not complete)
    if not complete:
        raise KeyboardInterrupt
    return 0


def _conclude(args: argparse.Namespace, bench: Bench, files: tuple[Path, Path] | None, interrupted: bool) -> None:
    """Print what was measured, if anything was, and write the report if there is to be one."""
    from autellix_server.bench.outcome import find_outcome
    from autellix_server.bench.report import write_report

    if not bench.rounds:
        return
    outcome = find_outcome(
        bench.rounds,
        _settings(args, bench.plan),
        facts=bench.facts,
        complaints=bench.complaints,
        slowdown=args.slowdown,
        seed=args.seed,
        interrupted=interrupted,
    )
    if files is not None:
        write_report(outcome, files)
    if args.json:
        print_json(outcome.to_json())
        return
    _show(outcome)
    if files is not None:
        print(f"Wrote {files[0]} and {files[1]}.")


def _show(outcome: Outcome) -> None:
    from autellix_server.bench.outcome import METHOD
    from autellix_server.bench.tables import tables

    for table in tables(outcome):
        print_table(table.columns, table.rows, table.title)
    print(METHOD)
    for warning in outcome.warnings:
        print(f"Note: {warning}")


def _plan(args: argparse.Namespace) -> Plan:
    """Return what is compared.

    Raises:
        UsageError: flags contradict each other, or leave nothing to run.
    """
    from autellix_server.bench.plan import Cut, fit
    from autellix_server.bench.run import Plan
    from autellix_server.traces.scaling import Scale

    arms, paces = _arms(args), _paces(args)
    scale = Scale(
        prompts=args.scale_prompts,
        outputs=args.scale_outputs,
        gaps=args.scale_gaps,
        unknown_gap_s=args.scale_unknown_gap,
        context_tokens=args.scale_context,
        calls=args.scale_calls,
    )
    programs = fit(_programs(args), scale)
    usual_cut = Cut(share=CUT_SHARE if len(programs) >= LEAST_PROGRAMS_TO_CUT else 0.0)
    plan = Plan(
        arms=arms,
        programs=programs,
        paces=paces,
        repeats=args.repeats or min(2, len(arms)),
        alone=0 if args.slowdown is None else args.unloaded,
        warmup=args.warmup or usual_cut,
        cooldown=args.cooldown or usual_cut,
        seed=args.seed,
        class_names=not args.no_class_names,
    )
    for pace in paces:
        plan.load(pace)  # before a server is started for it
    return plan


def _paces(args: argparse.Namespace) -> list[Pace]:
    from autellix_server.bench.plan import Pace

    if args.arrivals == "trace":
        if args.rates is not None:
            raise UsageError("--rates and --arrivals trace contradict each other; leave one out")
        if args.trace is None:
            raise UsageError("--arrivals trace wants the times of a --trace FILE; use --rates with --workload")
        if args.slowdown is not None:
            raise UsageError("--slowdown compares rates; give two or more --rates instead of --arrivals trace")
        return [Pace(None)]
    if args.rates is None:
        raise UsageError("say how fast programs arrive: --rates 0.5, or --arrivals trace with a --trace FILE")
    if args.slowdown is not None and sum(rate < float("inf") for rate in args.rates) < 2:
        raise UsageError("--slowdown interpolates between rates; give two or more finite --rates, such as 0.2,0.4,0.8")
    return [Pace(rate) for rate in args.rates]


def _arms(args: argparse.Namespace) -> list[Arm]:
    from autellix_server.bench.plan import Arm
    from autellix_server.gateway.settings import POLICY_CHOICES

    if args.policies is not None:
        for name in args.policies:
            if name not in POLICY_CHOICES:
                choices = ", ".join(POLICY_CHOICES)
                raise UsageError(f"--policies: our server has no policy {name!r}; choose from: {choices}")
        return [Arm(name, serve_arguments=("--policy", name, *args.passthrough)) for name in args.policies]
    if args.passthrough:
        raise UsageError("what follows -- goes to servers of --policies; with --arm there is none to give it to")
    arms = [Arm(name, url=url) for name, url in args.arm]
    if len({arm.name for arm in arms}) < len(arms):
        raise UsageError("several --arm have the same name; write --arm NAME=URL with a name of its own for each")
    return arms


def _programs(args: argparse.Namespace) -> list[TraceProgram]:
    """Return the programs that were asked for, as they are in the trace."""
    if args.trace is not None:
        from autellix_server.traces.jsonl import read_programs

        programs = list(islice(read_programs(args.trace), args.programs))
        if not programs:
            raise UsageError(f"--trace: {args.trace} has no programs")
        return programs
    from autellix_server.traces.workloads.registry import generate

    try:
        return list(islice(generate(args.workload, args.seed), args.programs or DEFAULT_PROGRAMS))
    except UsageError as error:
        raise UsageError(f"--workload: {error}") from error


def _settings(args: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    """Return what was asked for, as reports show it."""
    return {
        "source": args.workload or args.trace.name,
        "programs": len(plan.programs),
        "calls": sum(len(program.calls) for program in plan.programs),
        "scaled": plan.programs[0].scaled,
        "arms": [arm.name for arm in plan.arms],
        "arrivals": [str(pace) for pace in plan.paces],
        "repeats": plan.repeats,
        "warmup": str(plan.warmup),
        "cooldown": str(plan.cooldown),
        "slowdown": args.slowdown,
        "unloaded programs": plan.alone,
        "seed": args.seed,
        "api": args.api,
        "lengths": "free" if args.free_lengths else "forced",
        "identity": "none" if args.anonymous else "program and call",
        "class names": plan.class_names and not args.anonymous,
        "timeout_s": args.timeout,
    }


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise UsageError(f"--api-key-env: {variable} is not set; put the key there")
    return key


def _arm(text: str) -> tuple[str, str]:
    found = _NAMED_URL.fullmatch(text)
    with suppress(ValueError):
        if found is not None and urlsplit(found["url"]).hostname:
            return found["name"] or _LONE_ARM, found["url"]
    raise argparse.ArgumentTypeError(f"{text!r} is not a server; write NAME=URL, such as new=http://127.0.0.1:8700")


def _cut(text: str) -> Cut:
    from autellix_server.bench.plan import Cut

    with suppress(ValueError):
        if text.endswith("%") and 0 <= float(text[:-1]) < 100:
            return Cut(share=float(text[:-1]) / 100)
        if 0 <= float(text.removesuffix("s")) < float("inf"):
            return Cut(seconds=float(text.removesuffix("s")))
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a part of a round; write a share such as 10% or seconds such as 30"
    )
