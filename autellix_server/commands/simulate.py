"""`autellix simulate`: policies compared on model engines in virtual time."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autellix_sdk.errors import ConfigurationError, UsageError
from autellix_server.balancing.balancer import DEFAULT_BALANCER
from autellix_server.commands.arguments import count, names, over_one, rates
from autellix_server.commands.engine_model import add_model_arguments, chosen_model
from autellix_server.commands.output import Subparsers, add_command, print_json, print_table, progress_display

if TYPE_CHECKING:
    from autellix_server.simulator.results import GroupSummary, Summary
    from autellix_server.simulator.run import SimulationSettings
    from autellix_server.simulator.throughput import Throughput
    from autellix_server.traces.model import TraceProgram

EPILOG = """\
what you get:
  With --rates, one line for every policy and rate: token latency of programs (response time by tokens
  generated), completion time, the longest wait of a call, Jain's fairness index, and where time went.
  Without --rates, the throughput of every policy at equal latency: the arrival rate at which the mean token
  latency is --slowdown times that of an unloaded engine, with its 95 % bootstrap interval over programs.
  The engine is a model: presets are derived from published figures, not measured on your machine; measure
  yours with `autellix calibrate --output FILE` and simulate it with --engine-model FILE.

names:
  policies    fcfs, program-fcfs, lpm, mlfq, plas, atlas, atlas-dag, gittins, auto, round-robin, and srpt, which knows
              the future
  workloads   chat, react, mcts, mixed, coding, map_reduce
  presets     a100-8b, h100-8b, cpu-smollm2
  balancers   affinity, autellix, prefix, least-used, round-robin, hash

examples:
  autellix simulate --workload chat --programs 300 --policies fcfs,plas,auto
  autellix simulate --workload mixed --programs 200 --rates 0.2,0.4 --json
  autellix simulate --trace mine.jsonl --rates 2 --engines 4 --balancer autellix
  autellix simulate --trace mine.jsonl --engine-model here.json
  autellix simulate --workload react --rates inf           all programs arrive at once: see the makespan
"""
DEFAULT_PROGRAMS = 200


def register(subparsers: Subparsers) -> None:
    """Add `autellix simulate`."""
    parser = add_command(
        subparsers,
        "simulate",
        summary="compare policies on model engines in virtual time",
        description="Run programs on model engines in virtual time, with the policies that the server uses.",
        epilog=EPILOG,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", type=Path, metavar="FILE", help="programs of this trace (see: autellix trace)")
    source.add_argument("--workload", metavar="NAME", help="generated programs: chat, react, mcts, mixed, ...")
    parser.add_argument(
        "--programs",
        type=count,
        metavar="N",
        help=f"how many (default: all of a trace, {DEFAULT_PROGRAMS} of a workload)",
    )
    parser.add_argument("--policies", type=names, default="fcfs,mlfq,plas,auto", help="default: %(default)s")
    parser.add_argument("--rates", type=rates, help="programs per second, such as 0.5,1; inf: all at once")
    parser.add_argument(
        "--slowdown", type=over_one, default=2.0, metavar="X", help="without --rates, see below (default: %(default)s)"
    )
    parser.add_argument("--engines", type=count, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--balancer", default=DEFAULT_BALANCER, metavar="NAME", help="default: %(default)s")
    add_model_arguments(parser, default="a100-8b")
    parser.add_argument("--seed", type=int, default=0, help="other arrivals for another seed (default: %(default)s)")
    parser.add_argument("--no-class-names", action="store_true", help="do not tell policies what kind a program is")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Simulate and print; exit status 0."""
    from autellix_server.balancing.balancer import make_balancer
    from autellix_server.scheduling.policies import make_policy
    from autellix_server.simulator.run import SimulationSettings, levels_for

    model = chosen_model(args)
    with _naming("--balancer"):
        make_balancer(args.balancer)
    programs = _programs(args)
    levels = levels_for(model, programs)
    with _naming("--policies"):
        for policy in args.policies:
            make_policy(policy, levels)
    settings = [
        SimulationSettings(model, policy, levels, args.engines, args.balancer, class_names=not args.no_class_names)
        for policy in args.policies
    ]
    result: dict[str, Any] = {
        "source": str(args.trace or args.workload),
        "programs": len(programs),
        "seed": args.seed,
        "engines": args.engines,
        "balancer": args.balancer,
        "preset": args.preset if args.engine_model is None else None,
        "engine_model": None if args.engine_model is None else str(args.engine_model),
        "slowdown": args.slowdown if args.rates is None else None,
        "model": asdict(model),
    }
    with _without_cycle_collection():
        if args.rates is None:
            found = _search(settings, programs, args)
        else:
            runs = _simulate(settings, programs, args.rates, args.seed)
    if args.rates is None:
        result["throughput"] = [{"policy": policy, **asdict(throughput)} for policy, throughput in found]
    else:
        result["runs"] = [{"policy": policy, "rate": rate, **summary.to_json()} for policy, rate, summary in runs]
    if args.json:
        print_json(result)
        return 0
    engine = args.engine_model or args.preset
    print(f"{len(programs)} programs of {result['source']}, {args.engines} x {engine} ({model.source})")
    if args.rates is None:
        _show_throughput(found, args.slowdown)
    else:
        _show_runs(runs)
    return 0


def _simulate(
    settings: Sequence[SimulationSettings], programs: Sequence[TraceProgram], rates: Sequence[float], seed: int
) -> list[tuple[str, float, Summary]]:
    """Return a summary for every policy and rate, over the same arrivals."""
    from random import Random

    from autellix_server.simulator.programs import poisson_arrivals
    from autellix_server.simulator.results import summarize
    from autellix_server.simulator.run import Simulation

    runs = []
    with progress_display() as progress:
        progress.stage("simulating", steps=len(rates) * len(settings))
        for rate in rates:
            for one in settings:
                ended = Simulation(one, poisson_arrivals(programs, rate, Random(seed))).run()
                runs.append((one.policy, rate, summarize(ended, Random(seed))))
                progress.step(f"{one.policy} at {rate:g} programs/s")
                gc.collect()
    return runs


def _search(
    settings: Sequence[SimulationSettings], programs: Sequence[TraceProgram], args: argparse.Namespace
) -> list[tuple[str, Throughput]]:
    """Return the throughput at equal latency of every policy."""
    from autellix_server.simulator.throughput import LatencyCurve

    def on_run(rate: float) -> None:
        gc.collect()
        progress.step(f"{rate:.3g} programs/s")

    found = []
    with progress_display() as progress:
        for one in settings:
            progress.stage(f"searching the rate of {one.policy}")
            curve = LatencyCurve(one, programs, args.seed, on_run)
            found.append((one.policy, curve.throughput(args.slowdown)))
    return found


def _programs(args: argparse.Namespace) -> list[TraceProgram]:
    """Return the programs that were asked for."""
    if args.trace is not None:
        from autellix_server.traces.jsonl import read_programs

        programs = list(islice(read_programs(args.trace), args.programs))
        if not programs:
            raise UsageError(f"--trace: {args.trace} has no programs")
        return programs
    from autellix_server.traces.workloads.registry import generate

    with _naming("--workload"):
        return list(islice(generate(args.workload, args.seed), args.programs or DEFAULT_PROGRAMS))


def _show_runs(runs: Sequence[tuple[str, float, Summary]]) -> None:
    """Print a table of all programs, and one by kind where there are several."""
    columns = ("policy", "rate/s", *_LATENCY_COLUMNS, "makespan s", "preempted", "swapped", "recomputed", "promoted")
    rows = []
    for policy, rate, summary in runs:
        counts = summary.counts
        changes = (counts.preemptions, counts.swapped_tokens, counts.recomputed_tokens, counts.promotions)
        rows.append((policy, f"{rate:g}", *_latency(summary.everything), f"{summary.makespan_s:.0f}", *changes))
    print_table(columns, rows, "all programs; preemptions and promotions, tokens swapped and recomputed")
    kinds = tuple(runs[0][2].kinds)
    by_kind = [
        (kind, policy, f"{rate:g}", *_latency(summary.kinds[kind])) for kind in kinds for policy, rate, summary in runs
    ]
    if len(kinds) > 1:
        print_table(("kind", "policy", "rate/s", *_LATENCY_COLUMNS), by_kind, "by kind")
    causes = tuple(runs[0][2].everything.time_share)
    shares = [
        (policy, f"{rate:g}", *(f"{100 * share:.1f}" for share in summary.everything.time_share.values()))
        for policy, rate, summary in runs
    ]
    print_table(("policy", "rate/s", *causes), shares, "% of programs' time")


def _show_throughput(found: Sequence[tuple[str, Throughput]], slowdown: float) -> None:
    first = found[0][1].rate
    rows = [
        (
            policy,
            f"{one.rate:.3g}",
            f"{one.interval.low:.3g} to {one.interval.high:.3g}",
            f"{one.rate / first:.2f}",
            f"{one.offline_rate:.3g}",
            f"{1e3 * one.unloaded_s:.1f}",
        )
        for policy, one in found
    ]
    columns = ("policy", "programs/s", "95 % interval", f"x {found[0][0]}", "offline/s", "unloaded ms/token")
    print_table(columns, rows, f"arrival rate at {slowdown:g} times the unloaded mean token latency")


_LATENCY_COLUMNS = ("ms/token", "95 % interval", "p50", "p95", "p99", "completion s", "longest wait s", "fairness")


def _latency(group: GroupSummary) -> tuple[str, ...]:
    """Return the cells of `_LATENCY_COLUMNS`."""
    latency, interval = group.token_latency_s, group.mean_interval_s
    return (
        f"{1e3 * latency.mean:.1f}",
        f"{1e3 * interval.low:.1f} to {1e3 * interval.high:.1f}",
        *(f"{1e3 * value:.1f}" for value in (latency.p50, latency.p95, latency.p99)),
        f"{group.completion_s.mean:.1f}",
        f"{group.longest_wait_s:.1f}",
        f"{group.fairness:.2f}",
    )


@contextmanager
def _without_cycle_collection() -> Iterator[None]:
    """Let nothing look for reference cycles: a simulation makes none while it runs, and looking takes 8 % of its time.

    One that is over is a cycle itself, and goes with an explicit `gc.collect`.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _naming(flag: str) -> Iterator[None]:
    """Put the flag at fault before what is wrong with its value."""
    try:
        yield
    except (ConfigurationError, UsageError) as error:
        raise UsageError(f"{flag}: {error}") from error
