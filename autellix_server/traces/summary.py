"""What a trace is like: how many programs and calls of each kind, and how their sizes are distributed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from autellix_server.traces.model import TraceProgram


@dataclass(frozen=True, slots=True)
class Spread:
    """How a number is distributed; all zero when there is none of it.

    Attributes:
        mean, p50, p90, p99: mean and quantiles (the value at that place in order).
        largest: the largest.
    """

    mean: float
    p50: float
    p90: float
    p99: float
    largest: float


@dataclass(frozen=True, slots=True)
class KindSummary:
    """The programs of one kind.

    Attributes:
        kind: their kind.
        programs, calls: how many there are.
        calls_per_program, threads_per_program: per program.
        prompt_tokens, new_tokens, output_tokens: per call; new ones are those that no earlier call of the program had.
        tool_seconds: per call whose gap is known.
        unknown_gaps: calls whose gap is not known.
    """

    kind: str
    programs: int
    calls: int
    calls_per_program: Spread
    threads_per_program: Spread
    prompt_tokens: Spread
    new_tokens: Spread
    output_tokens: Spread
    tool_seconds: Spread
    unknown_gaps: int


@dataclass(slots=True)
class _Samples:
    calls: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    tool_s: list[float] = field(default_factory=list)

    def add(self, program: TraceProgram) -> None:
        self.calls.append(len(program.calls))
        self.threads.append(program.threads)
        for call in program.calls:
            self.prompt.append(call.prompt_tokens)
            self.new.append(call.new_tokens)
            self.output.append(call.output_tokens)
            if call.tool_seconds is not None:
                self.tool_s.append(call.tool_seconds)

    def summary(self, kind: str) -> KindSummary:
        return KindSummary(
            kind=kind,
            programs=len(self.calls),
            calls=len(self.prompt),
            calls_per_program=spread(self.calls),
            threads_per_program=spread(self.threads),
            prompt_tokens=spread(self.prompt),
            new_tokens=spread(self.new),
            output_tokens=spread(self.output),
            tool_seconds=spread(self.tool_s),
            unknown_gaps=len(self.prompt) - len(self.tool_s),
        )


def summarize(programs: Iterable[TraceProgram]) -> list[KindSummary]:
    """Return a summary for each kind, in order of first appearance; the programs are read once."""
    samples: dict[str, _Samples] = {}
    for program in programs:
        samples.setdefault(program.kind, _Samples()).add(program)
    return [found.summary(kind) for kind, found in samples.items()]


def spread(numbers: Sequence[float]) -> Spread:
    """Return how the numbers are distributed."""
    if not numbers:
        return Spread(0, 0, 0, 0, 0)
    ordered = sorted(numbers)
    p50, p90, p99 = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.9, 0.99))
    return Spread(sum(ordered) / len(ordered), p50, p90, p99, ordered[-1])
