#!/usr/bin/env python3
"""Monte Carlo tree search in the manner of LATS (language agent tree search) on the game of 24.

    python examples/mcts.py                              # built-in puzzles
    python examples/mcts.py --numbers 4 9 10 13 --iterations 20 --parallel 4
    python examples/mcts.py --rollout model              # no random moves at all

The model proposes steps (several samples at once) and values states as sure, likely or impossible. UCT picks what to
expand next, several leaves at a time under virtual loss; a rollout plays the best new state to its end; rewards are
propagated back (see lats.py). Only legal moves count, arithmetic is exact, and a solution is proved before it is
reported, together with whether random moves helped to find it.

Works with any OpenAI-compatible server (--base-url). On an Autellix server each puzzle is one program: the lines
marked `# autellix` are all it takes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from game24 import PUZZLES, solve, start
from harness import (
    CallFailed,
    Chat,
    add_common_options,
    bounded,
    first_cause,
    open_client,
    report,
    run_main,
    run_side_by_side,
)
from lats import DEFAULTS, Findings, Search, Settings
from openai import AsyncOpenAI

import autellix_sdk as autellix  # autellix


@dataclass(slots=True)
class Result:
    """What one program did. `bill` is the server's, `seconds` the client's."""

    numbers: tuple[int, ...]
    solvable: bool
    found: Findings
    calls: int
    seconds: float
    error: str | None
    bill: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON object for `--json`."""
        record = asdict(self)
        found: dict[str, Any] = record.pop("found")
        return {"agent": "mcts"} | record | found

    def line(self) -> str:
        """One line for a person."""
        told = f"failed: {self.error}" if self.error else "not solved" + ("" if self.solvable else ", has no solution")
        if self.found.solution:
            by = "the model's own moves" if self.found.source == "model" else "moves of which some were random"
            told = f"{self.found.solution} = 24, by {by}"
        counts = (
            f"{self.calls} calls, {self.found.nodes} nodes, {self.found.legal} legal and {self.found.illegal} illegal"
        )
        return f"{' '.join(map(str, self.numbers))}: {told}  [{counts} proposals, {self.seconds:.1f} s]"


async def run_program(client: AsyncOpenAI, model: str, numbers: Sequence[int], settings: Settings = DEFAULTS) -> Result:
    """Search one puzzle as one program. A call that fails ends it and is reported in the result.

    Args:
        client: client of any OpenAI-compatible server.
        model: model name.
        numbers: four whole numbers.
        settings: how to search.
    """
    puzzle = tuple(numbers)
    chat = Chat(client, model, settings.temperature)
    search = Search(chat, settings, puzzle)
    error: str | None = None
    began = time.monotonic()
    async with autellix.program("mcts") as program:  # autellix
        try:
            await search.run()
        except* CallFailed as failures:
            error = str(first_cause(failures))
    bill = program.bill().to_json()  # autellix
    seconds = time.monotonic() - began
    return Result(puzzle, solve(start(puzzle)) is not None, search.found, chat.calls, seconds, error, bill)


def summary(results: Sequence[Result]) -> str:
    """What the programs achieved, in one sentence."""
    by_source = Counter(result.found.source for result in results)
    solved = by_source["model"] + by_source["rollout"]
    failed = sum(result.error is not None for result in results)
    return (
        f"{len(results)} programs: {solved} of {sum(result.solvable for result in results)} solvable puzzles solved, "
        f"{by_source['model']} by the model's own moves and {by_source['rollout']} with random moves; {failed} failed."
    )


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; bad usage exits with 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def number(name: str, most: int, default: int, text: str) -> None:
        parser.add_argument(name, type=bounded(int, 1, most), default=default, help=f"{text} (default: {default})")

    parser.add_argument(
        "--numbers",
        type=bounded(int, 1, 100),
        nargs=4,
        action="append",
        metavar="N",
        help="solve these four numbers instead of the built-in puzzles (repeatable)",
    )
    parser.add_argument("--limit", type=bounded(int, 1, 100_000), help="solve only the first LIMIT puzzles")
    number("--iterations", 10_000, DEFAULTS.iterations, "leaves expanded at most")
    number("--parallel", 64, DEFAULTS.parallel, "leaves expanded at once")
    number("--samples", 64, DEFAULTS.samples, "proposal calls per expansion")
    number("--votes", 64, DEFAULTS.votes, "value calls per new state")
    number("--width", 64, DEFAULTS.width, "children kept per expansion")
    number("--max-tokens", 4096, DEFAULTS.max_tokens, "tokens per reply")
    parser.add_argument(
        "--rollout",
        choices=("random", "model"),
        default=DEFAULTS.rollout,
        help="who plays rollouts to the end, and expands where the model proposes nothing legal; with 'model' nobody "
        "does the latter (default: %(default)s)",
    )
    parser.add_argument(
        "--exploration",
        type=bounded(float, 0, 100),
        default=DEFAULTS.exploration,
        help="weight of the UCT bonus for rarely visited states (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULTS.seed, help="seeds the random moves, not the model (default: %(default)s)"
    )
    add_common_options(parser, temperature=DEFAULTS.temperature)
    return parser.parse_args(argv)


async def main() -> int:
    """Run the example; the exit code is 0 when the model answered, 1 when it could not be asked."""
    args = parse_arguments()
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    puzzles = args.numbers or list(PUZZLES)
    autellix.init(base_url=args.base_url)  # autellix
    async with open_client(args) as client:
        results = await run_side_by_side(
            puzzles[: args.limit],
            lambda numbers: run_program(client, args.model, numbers, settings),
            args.concurrency,
            args.json,
        )
    return report(results, summary(results), args.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
