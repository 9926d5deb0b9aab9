"""`autellix trace`: generate, convert, describe and validate traces of agent programs."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from autellix_server.commands.arguments import above_zero, count, zero_or_more
from autellix_server.commands.output import Subparsers, add_command, print_json, print_table

if TYPE_CHECKING:
    from autellix_server.traces.model import TraceProgram
    from autellix_server.traces.summary import KindSummary, Spread

EPILOG = """\
A trace is a file with one program a line: its calls, who waited for whom, and token counts, never text.
docs/traces.md describes it. Names that end in .gz are compressed. Every verb takes --json and explains itself.

examples:
  autellix trace generate --workload mixed --programs 200 --rate 0.5 --output mixed.jsonl
  autellix trace describe mixed.jsonl
  autellix trace validate mixed.jsonl
  autellix trace convert --help
"""
GENERATE_EPILOG = """\
workloads: chat, react, mcts and mixed have the means that the paper publishes for ShareGPT, BFCL, LATS and all three
in equal parts; coding and map_reduce are ours. The same name, seed and number give the same programs.

examples:
  autellix trace generate --workload chat --programs 1000 --output chat.jsonl.gz
  autellix trace generate --workload mcts --programs 50 --rate 0.2 --seed 7 --output mcts.jsonl
  autellix trace generate --workload coding --programs 20 --prompts 0.05 --outputs 0.1 --context 4096 --output -
                                           small enough for a small engine; - is standard output
"""
CONVERT_EPILOG = """\
formats:
  sharegpt    JSON list of conversations; tokens are estimated at four bytes each
  mooncake    JSONL with hash_ids; sessions are inferred from them
  azure       CSV with TIMESTAMP, ContextTokens, GeneratedTokens; each row is a program
  bfcl        FILE is a category, such as multi_turn_base, of the package bfcl-eval, which has to be installed

examples:
  autellix trace convert --from sharegpt sharegpt.json --output chat.jsonl
  autellix trace convert --from bfcl multi_turn_base --output react.jsonl
"""
DESCRIBE_EPILOG = """\
columns: mean, median, 90 and 99 % quantile and maximum; new tokens are those of a prompt that no earlier call of the
program had, which is what an engine with a prefix cache computes.

examples:
  autellix trace describe chat.jsonl
  autellix trace describe chat.jsonl --json
"""
VALIDATE_EPILOG = """\
Every line that breaks the format is named with file, line, field, value and what to write instead.

examples:
  autellix trace validate mine.jsonl && echo fit for use

Exit status: 0 if every line is right, 2 if one is not.
"""

SHOWN_ERRORS = 20
FORMATS = ("sharegpt", "mooncake", "azure", "bfcl")
STANDARD_OUTPUT = "-"


def register(subparsers: Subparsers) -> None:
    """Add `autellix trace` with its verbs."""
    parser = subparsers.add_parser(
        "trace",
        help="generate, convert, describe and validate traces of agent programs",
        description="Work with traces: what agent programs ask of an engine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, title="verbs")
    _register_generate(verbs)
    _register_convert(verbs)
    describe = add_command(
        verbs,
        "describe",
        summary="show how large programs and calls are",
        description="Show how many programs and calls of each kind there are, and how their sizes are distributed.",
        epilog=DESCRIBE_EPILOG,
    )
    describe.set_defaults(run=run_describe)
    validate = add_command(
        verbs,
        "validate",
        summary="check every line against the format",
        description="Check every line of a trace against the format; changes nothing.",
        epilog=VALIDATE_EPILOG,
    )
    validate.set_defaults(run=run_validate)
    for verb in (describe, validate):
        verb.add_argument("file", type=Path, metavar="FILE", help="the trace, JSONL or JSONL.gz")


def _register_generate(verbs: Subparsers) -> None:
    generate = add_command(
        verbs,
        "generate",
        summary="write programs like those of the paper",
        description="Write programs drawn from seeded distributions, with arrival times if a rate is given.",
        epilog=GENERATE_EPILOG,
    )
    generate.add_argument("--workload", required=True, metavar="NAME", help="what the programs are like, see below")
    generate.add_argument("--programs", type=count, default=100, metavar="N", help="how many (default: %(default)s)")
    generate.add_argument("--seed", type=int, default=0, help="other programs for another seed (default: %(default)s)")
    generate.add_argument("--rate", type=above_zero, metavar="R", help="let R programs a second arrive, Poisson")
    generate.add_argument(
        "--prompts", type=above_zero, default=1.0, metavar="F", help="factor on prompt lengths (default: 1)"
    )
    generate.add_argument(
        "--outputs", type=above_zero, default=1.0, metavar="F", help="factor on output lengths (default: 1)"
    )
    generate.add_argument("--gaps", type=zero_or_more, default=1.0, metavar="F", help="factor on gaps (default: 1)")
    generate.add_argument("--calls", type=count, metavar="N", help="the first N calls of each program (default: all)")
    generate.add_argument("--context", type=count, metavar="TOKENS", help="leave out calls that are longer than this")
    _add_output(generate)
    generate.set_defaults(run=run_generate)


def _register_convert(verbs: Subparsers) -> None:
    convert = add_command(
        verbs,
        "convert",
        summary="translate other people's traces",
        description="Translate a public trace into the format of Autellix.",
        epilog=CONVERT_EPILOG,
    )
    convert.add_argument("file", metavar="FILE", help="what to read")
    convert.add_argument("--from", dest="format", required=True, choices=FORMATS, help="its format")
    _add_output(convert)
    convert.set_defaults(run=run_convert)


def run_generate(args: argparse.Namespace) -> int:
    """Write generated programs; exit status 0."""
    from autellix_server.traces.arrivals import arrive_at, poisson_times
    from autellix_server.traces.scaling import Scale, scale_program
    from autellix_server.traces.workloads.registry import generate

    scale = Scale(args.prompts, args.outputs, args.gaps, context_tokens=args.context, calls=args.calls)
    scaled = (scale_program(program, scale) for program in islice(generate(args.workload, args.seed), args.programs))
    programs: Iterator[TraceProgram] = (program for program in scaled if program is not None)
    if args.rate:
        programs = arrive_at(programs, poisson_times(args.rate, random.Random(args.seed)))
    written = _write(args, programs)
    if written < args.programs:
        left_out = args.programs - written
        print(f"Left out: {left_out} of {args.programs} programs, none of whose calls fits --context.", file=sys.stderr)
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Write a foreign trace in our format; exit status 0."""
    _write(args, _read_foreign(args.format, args.file))
    return 0


def run_describe(args: argparse.Namespace) -> int:
    """Show a trace's sizes; exit status 0, 2 if the trace breaks the format."""
    from autellix_server.traces.jsonl import read_programs
    from autellix_server.traces.summary import summarize

    kinds = summarize(read_programs(args.file))
    if args.json:
        print_json({"file": args.file, "kinds": [asdict(kind) for kind in kinds]})
        return 0
    for kind in kinds:
        title = f"{kind.kind}: {kind.programs} programs, {kind.calls} calls"
        if kind.unknown_gaps == kind.calls:
            title += ", no gap is known"
        elif kind.unknown_gaps:
            title += f", {kind.unknown_gaps} of them with an unknown gap"
        print_table(("", "mean", "p50", "p90", "p99", "max"), list(_rows(kind)), title)
    if not kinds:
        print(f"{args.file} has no programs.")
    return 0


def run_validate(args: argparse.Namespace) -> int:
    """Check a trace; exit status 0 if it is right, 2 if not."""
    from autellix_server.traces.jsonl import scan_programs
    from autellix_server.traces.model import TraceError

    errors: list[str] = []
    programs = wrong = 0
    for found in scan_programs(args.file):
        if isinstance(found, TraceError):
            wrong += 1
            if len(errors) < SHOWN_ERRORS:
                errors.append(str(found))
        else:
            programs += 1
    if args.json:
        print_json({"file": args.file, "programs": programs, "wrong": wrong, "errors": errors})
    else:
        for error in errors:
            print(error, file=sys.stderr)
        hidden = wrong - len(errors)
        more = f" (the first {len(errors)} are shown)" if hidden else ""
        print(f"{args.file}: {_are(programs, 'program')} right, {_are(wrong, 'line')} wrong{more}.")
    return 2 if wrong else 0


def _are(number: int, thing: str) -> str:
    return f"1 {thing} is" if number == 1 else f"{number} {thing}s are"


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="where to write the trace; - is standard output"
    )


def _write(args: argparse.Namespace, programs: Iterable[TraceProgram]) -> int:
    """Write a trace to `--output`, say what was written, and return the number of programs."""
    from autellix_sdk.errors import UsageError
    from autellix_server.traces.jsonl import dump_programs, write_programs

    if args.output == STANDARD_OUTPUT:
        if args.json:
            raise UsageError("--json and --output - both want standard output; name a file")
        return dump_programs(sys.stdout, programs)
    written = write_programs(Path(args.output), programs)
    if args.json:
        print_json({"file": args.output, "programs": written})
    else:
        print(f"Wrote {written} programs to {args.output}.")
    return written


def _read_foreign(name: str, file: str) -> Iterator[TraceProgram]:
    from autellix_server.traces.readers import azure, bfcl, mooncake, sharegpt

    if name == "bfcl":
        return bfcl.read_bfcl(file)
    readers = {"azure": azure.read_azure, "mooncake": mooncake.read_mooncake, "sharegpt": sharegpt.read_sharegpt}
    return readers[name](Path(file))


def _rows(kind: KindSummary) -> Iterator[tuple[str, ...]]:
    yield _row("calls a program", kind.calls_per_program)
    yield _row("threads a program", kind.threads_per_program)
    yield _row("prompt tokens", kind.prompt_tokens)
    yield _row("new tokens", kind.new_tokens)
    yield _row("output tokens", kind.output_tokens)
    if kind.unknown_gaps < kind.calls:
        yield _row("gap seconds", kind.tool_seconds, digits=3)


def _row(name: str, spread: Spread, digits: int = 0) -> tuple[str, ...]:
    rest = (f"{value:.{digits}f}" for value in (spread.p50, spread.p90, spread.p99, spread.largest))
    return (name, f"{spread.mean:.{max(digits, 2)}f}", *rest)
