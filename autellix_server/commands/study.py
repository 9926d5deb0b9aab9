"""`autellix study`: the paper's evaluation and ours in simulation, written up as a page."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from autellix_sdk.errors import UsageError
from autellix_server.commands.arguments import count
from autellix_server.commands.output import Subparsers, add_command, check_writable, print_json, progress_display

if TYPE_CHECKING:
    from autellix_server.study.jobs import Result
    from autellix_server.study.world import Workload

EPILOG = """\
what you get:
  results.md in the folder given, with its plots in results/ beside it: throughput at equal latency, tails,
  makespan, where time goes, one to eight engines, balancers, every setting, and where each policy loses.
  The same command gives the same page, to the byte. It takes about half an hour on two cores.

examples:
  autellix study --output docs
  autellix study --output /tmp/study --quick              a tenth of the programs: does all work?
  autellix study --output docs --trace bfcl=bfcl.jsonl    your traces beside the generated programs
  autellix study --save runs.json --output docs           keep what was simulated ...
  autellix study --load runs.json --output docs           ... and write the page again from it
"""


PLOTS = "results"
"""Folder of the plots, beside the page, which refers to them by it."""

_ABOUT = {"study", "workload", "arm"}
"""What every result says of itself."""


def register(subparsers: Subparsers) -> None:
    """Add `autellix study`."""
    parser = add_command(
        subparsers,
        "study",
        summary="reproduce the paper's evaluation in simulation, as a page with plots",
        description="Simulate every policy on every workload and load, and write the results up as one page.",
        epilog=EPILOG,
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for results.md and its plots")
    parser.add_argument(
        "--trace",
        type=_named_file,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="programs of a trace, as a workload called NAME (repeatable)",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the programs")
    parser.add_argument(
        "--processes", type=count, default=os.cpu_count() or 1, metavar="N", help="side by side (default: %(default)s)"
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="write what was simulated to FILE, as JSON")
    parser.add_argument("--load", type=Path, metavar="FILE", help="simulate nothing, take what --save wrote")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Simulate and write; exit status 0."""
    from autellix_server.study.run import scaled_down
    from autellix_server.study.world import WORKLOADS, Workload

    if args.output is None and not args.json:
        raise UsageError("--output: name a folder for the page, or take --json")
    traces = {name: Workload(_count_programs(file), file) for name, file in args.trace}
    for name in traces:
        if name in WORKLOADS:
            raise UsageError(f"--trace: {name!r} is the name of a generated workload; choose another")
    workloads = dict(WORKLOADS)
    if args.quick:
        workloads, traces = scaled_down(workloads), scaled_down(traces)
    loaded = None if args.load is None else _load(args.load)
    if args.save is not None:
        check_writable(args.save, "--save")
    if args.output is not None:
        _make_folder(args.output / PLOTS)
    results = _simulate(workloads, traces, args.processes) if loaded is None else loaded
    if args.save is not None:
        args.save.write_text(json.dumps(results), encoding="utf-8")
    if args.output is not None:
        _write(args.output, results, workloads, traces)
    if args.json:
        print_json({"results": results})
    return 0


def _simulate(workloads: dict[str, Workload], traces: dict[str, Workload], processes: int) -> list[Result]:
    from autellix_server.study.run import run_study

    with progress_display() as progress:
        return run_study(workloads, traces, processes, progress.stage, progress.step)


def _write(folder: Path, results: list[Result], workloads: dict[str, Workload], traces: dict[str, Workload]) -> None:
    """Write the page and its plots."""
    from autellix_server.study.page import Page

    page = Page(results, workloads, traces)
    text = page.markdown()
    for name, plot in page.plots.items():
        (folder / PLOTS / name).write_text(plot)
    (folder / "results.md").write_text(text)
    print(f"wrote {folder / 'results.md'} and {len(page.plots)} plots")


def _make_folder(folder: Path) -> None:
    """Make the folder of the plots, and so find out before anything is simulated whether it can be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output: {folder} cannot be made: {error.strerror}; name another folder") from error


def _load(file: Path) -> list[Result]:
    """Return what `--save` wrote."""
    try:
        results: list[Result] = json.loads(file.read_text())
    except OSError as error:
        raise UsageError(f"--load: {file} cannot be read: {error.strerror}; check the name") from error
    except ValueError as error:
        raise UsageError(f"--load: {file} is not JSON ({error}); write it with --save") from error
    if not isinstance(results, list) or not all(isinstance(one, dict) and one.keys() >= _ABOUT for one in results):
        raise UsageError(f"--load: {file} has no results of a study; write it with --save")
    return results


def _count_programs(file: Path) -> int:
    from autellix_server.traces.jsonl import read_programs

    return sum(1 for _ in read_programs(file))


def _named_file(text: str) -> tuple[str, Path]:
    name, _, file = text.partition("=")
    if not name.replace("-", "").isalnum() or not file:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE, with letters, digits and hyphens in the name")
    return name, Path(file)
